//! The table of a hunt: how many seeds each bug took, and which checker caught it.

use std::collections::BTreeSet;

use super::record::Hunted;

/// A bug, and its result in each range.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub bug: &'static str,
    /// The part of the product that it is in.
    pub area: &'static str,
    /// Whether it needs a rare sequence of events.
    pub rare: bool,
    /// Its results, one for each range.
    pub ranges: Vec<Hunted>,
}

/// Prints one row for each bug.
pub fn print(rows: &[Row]) {
    println!(
        "\n{:<32} {:<10} {:<5} {:>7} {:>7} {:>8}  caught by",
        "bug", "area", "rare", "median", "worst", "wall s"
    );
    for Row { bug, area, rare, ranges } in rows {
        let (median, worst) = seeds(ranges);
        let wall: f64 = ranges.iter().map(|range| range.wall_seconds).sum();
        let checkers: BTreeSet<&str> =
            ranges.iter().filter_map(|range| range.caught.as_ref()).map(|catch| &*catch.checker).collect();
        println!(
            "{bug:<32} {area:<10} {:<5} {median:>7} {worst:>7} {wall:>8.0}  {}",
            if *rare { "rare" } else { "" },
            checkers.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    let all = rows.iter().filter(|row| is_caught(&row.ranges)).count();
    println!("\n{all} of {} planted bugs caught in every range", rows.len());
}

/// Whether a bug was caught in each of its ranges.
pub fn is_caught(ranges: &[Hunted]) -> bool {
    ranges.iter().all(|range| range.caught.is_some())
}

/// The seeds needed: median over the ranges, and worst. A range without a catch is worse than any number.
fn seeds(ranges: &[Hunted]) -> (String, String) {
    let mut needed: Vec<(bool, u64)> =
        ranges.iter().map(|range| (range.caught.is_none(), range.seeds)).collect();
    needed.sort_unstable();
    let shown = |(missed, seeds): (bool, u64)| if missed { format!(">{seeds}") } else { seeds.to_string() };
    match needed.last() {
        // If their number is even, the worse of the two in the middle.
        Some(worst) => (shown(needed[needed.len() / 2]), shown(*worst)),
        None => ("-".into(), "-".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Catch;
    use super::*;

    fn range(seeds: u64, caught: bool) -> Hunted {
        let catch = Catch { seed: seeds, checker: "durability".into(), words: String::new() };
        Hunted { bug: "a".into(), first_seed: 1, seeds, wall_seconds: 1.0, caught: caught.then_some(catch) }
    }

    #[test]
    fn a_range_without_a_catch_is_the_worst() {
        let ranges = [range(2000, true), range(40, false), range(3, true)];
        assert_eq!(seeds(&ranges), ("2000".into(), ">40".into()));
        assert!(!is_caught(&ranges) && is_caught(&ranges[..1]));
    }
}
