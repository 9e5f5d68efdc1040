# The daily commands. Each recipe runs plain commands, which work without `just` as well.

# Lists the recipes.
default:
    @just --list --unsorted

# Builds everything, optimised.
build:
    cargo build --release

# Runs a cluster of three processes on this machine; arguments go to `mokv dev`.
run *ARGS:
    cargo run --release -- dev {{ ARGS }}

# Runs all tests but the simulation; arguments go to cargo.
test *ARGS:
    cargo test {{ ARGS }}

# Runs the simulation: every scenario, chaos, the check of determinism. Arguments: `list`, names, `--seeds 500`.
sim *ARGS:
    cargo test --features sim --test sim -- {{ ARGS }}

# Plays one seed of chaos or of another scenario again, and prints its events.
replay SEED SCENARIO="chaos":
    MOKV_SCENARIO={{ SCENARIO }} MOKV_SEED={{ SEED }} cargo test --features sim --test sim

# Plays one scenario of the simulation by its name, with all its seeds.
scenario NAME:
    MOKV_SCENARIO={{ NAME }} cargo test --features sim --test sim

# Plays many chaos seeds on all cores; resumes an interrupted sweep.
sweep SEEDS="1000" *ARGS:
    cargo run --manifest-path sim/Cargo.toml -- sweep --seeds {{ SEEDS }} {{ ARGS }}

# Makes the simulation faster by profile-guided optimisation; worth it before a long sweep.
train *ARGS:
    cargo run --manifest-path sim/Cargo.toml -- train {{ ARGS }}

# Draws a run as one page of HTML, target/report/SCENARIO-SEED.html.
picture SEED SCENARIO="chaos":
    cargo run --manifest-path sim/Cargo.toml -- report {{ SCENARIO }} {{ SEED }}

# Makes a failing chaos run as small as possible.
shrink SEED:
    cargo run --manifest-path sim/Cargo.toml -- shrink chaos {{ SEED }}

# Runs the unit and property tests once with each planted bug (or with the named ones): no test may notice it.
planted-units *NAMES:
    sim/planted-units {{ NAMES }}

# Plays chaos with each planted bug (or with the named ones) until it is caught.
hunt *ARGS:
    cargo run --manifest-path sim/Cargo.toml -- hunt {{ ARGS }}

# Lints the image and the chart, and tries the image out.
deploy:
    deploy/check
    cargo build
    deploy/try-image target/debug/mokv

# Runs every query of the alerts and the dashboard against a real cluster and a real Prometheus.
monitoring:
    cargo build
    MOKV_BINARY=target/debug/mokv tests/monitoring/run

# Runs the chart's pods on a real Kubernetes control plane; arguments are names of stories, or `--list`.
kubernetes *STORIES:
    tests/kubernetes/run {{ STORIES }}

# Lints the production build and the simulated one.
lint:
    cargo clippy --all-targets -- -D warnings
    cargo clippy --manifest-path sim/Cargo.toml --all-targets -- -D warnings
    cargo clippy -p mokv --lib --no-default-features -- -D warnings
    cargo clippy -p mokv --lib --no-default-features --features tls -- -D warnings
    RUSTFLAGS="--cfg madsim" cargo clippy --manifest-path sim/Cargo.toml -p mokv -p mokv-sim --lib --bins --profile sim --target-dir target/sim -- -D warnings

# Formats the code.
fmt:
    cargo fmt --all
    cargo fmt --all --manifest-path sim/Cargo.toml

# Builds the documentation of the code and opens it.
docs:
    cargo doc --no-deps --open

# Checks everything that must hold on a clean checkout.
ci:
    .ci/run

# Runs what does not fit into the hour of `ci`: an upgrade from an earlier program, all planted bugs, a sweep.
ci-full:
    .ci/full
