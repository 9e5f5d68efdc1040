//! The client against nodes that misbehave as scripted: what it sends, how often, and what it concludes.

mod fake;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use fake::{CLUSTER, Heard, Node, Play};
use futures_util::{StreamExt, TryStreamExt};
use mokv_proto::api::{Server, SessionWrite};
use mokv_proto::status;
use mokv_proto::tonic::Status;
use proptest::prelude::*;

use super::*;

/// Three nodes that list each other as members; the first leads.
async fn cluster() -> [Node; 3] {
    let nodes = [Node::start().await, Node::start().await, Node::start().await];
    let members = members(&nodes, 0);
    nodes.iter().for_each(|node| node.set_members(&members));
    nodes
}

fn members(nodes: &[Node], leader: usize) -> Vec<Server> {
    let member = |(number, node): (usize, &Node)| Server {
        id: format!("node-{number}"),
        rpc_addr: node.address.clone(),
        is_leader: number == leader,
        node_id: number as u64 + 1,
        is_learner: false,
    };
    nodes.iter().enumerate().map(member).collect()
}

/// No process listens there: the port is above those assigned by the simulator and by the operating system. (The
/// simulator assigns ports from 1, and any node can connect to a client's own port.)
const DEAD: &str = "127.0.0.1:64999";

/// One node that leads itself.
async fn single() -> Node {
    let node = Node::start().await;
    node.set_members(&members(std::slice::from_ref(&node), 0));
    node
}

fn builder(nodes: &[&Node]) -> Builder {
    Client::builder().endpoints(nodes.iter().map(|node| &*node.address))
}

/// A client that has already received the members.
async fn informed(builder: Builder) -> Client {
    let client = builder.build().unwrap();
    client.members_with(ReadOptions::stale()).await.unwrap();
    client
}

async fn set(client: &Client, key: &str) -> Result<Written, Error> {
    client.set(key, "value").await
}

async fn get(client: &Client, key: &str, consistency: Consistency) -> Result<Read, Error> {
    client.get_with(key, consistency.into()).await
}

// ---- time ----

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_length_of_time_panics(seconds: u64, nanos in 0u32..1_000_000_000, few in 0u64..50) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let node = single().await;
            node.set_entries(9, &["a"]);
            let lengths = [Duration::new(seconds, nanos), Duration::from_millis(few), Duration::MAX];
            for (timeout, list_timeout) in
                lengths.into_iter().flat_map(|one| lengths.into_iter().map(move |other| (one, other)))
            {
                let client = builder(&[&node]).timeout(timeout).list_timeout(list_timeout).build().unwrap();
                let client = client.with_timeout(timeout).with_total_timeout(list_timeout);
                let long = timeout.min(list_timeout) > Duration::from_secs(60);
                if long {
                    set(&client, "a").await.unwrap();
                }
                if long {
                    get(&client, "a", Consistency::Stale).await.unwrap();
                    client.status(&node.address).await.unwrap();
                }
                let _ = client.backup().await;
                let _ = client.close().await;
                if let Ok(mut listing) = client.list("").await {
                    let _ = listing.next().await;
                }
            }
        });
    }
}

#[tokio::test]
async fn a_call_that_runs_out_of_time_says_how_long_it_had() {
    let node = single().await;
    let given = Duration::from_millis(345);
    let client = informed(builder(&[&node]).timeout(Duration::from_secs(5))).await.with_timeout(given);
    for method in ["open_session", "set", "get", "status", "backup", "list"] {
        for _ in 0..20 {
            node.play(method, Play::Silence);
        }
    }
    let nameless = builder(&[&node]).timeout(given).sessions(false).build().unwrap();
    let errors = [
        set(&client, "a").await.unwrap_err(),
        set(&nameless, "a").await.unwrap_err(),
        get(&client, "a", Consistency::Linearizable).await.unwrap_err(),
        client.status(&node.address).await.unwrap_err(),
        client.backup().await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("345ms"), "{error}");
        assert_eq!(error.to_string().matches("within").count().max(1), 1, "one time, the caller's: {error}");
    }
}

#[tokio::test]
async fn all_calls_of_a_client_end_within_their_total_time() {
    let node = single().await;
    for _ in 0..50 {
        node.play("get", Play::Silence);
    }
    let client = informed(builder(&[&node]).timeout(Duration::from_secs(3600))).await;
    let client = client.with_total_timeout(Duration::from_millis(200));
    // Each call alone may take an hour.
    for _ in 0..3 {
        get(&client, "a", Consistency::Linearizable).await.unwrap_err();
    }
    assert!(client.with_timeout(Duration::MAX).list("").await.is_err());
}

// ---- routing ----

#[tokio::test]
async fn writes_go_to_the_leader_and_linearizable_reads_to_the_followers() {
    let nodes = cluster().await;
    let client = informed(builder(&[&nodes[1]])).await;
    for _ in 0..4 {
        set(&client, "a").await.unwrap();
        get(&client, "a", Consistency::Linearizable).await.unwrap();
    }
    assert_eq!(nodes[0].sets().len(), 4);
    let reads = nodes
        .each_ref()
        .map(|node| node.heard().iter().filter(|heard| matches!(heard, Heard::Get(_))).count());
    assert_eq!(reads[0], 0, "the leader is spared");
    assert_eq!(reads[1] + reads[2], 4);
    assert!(reads[1] > 0 && reads[2] > 0, "followers take turns: {reads:?}");
    assert!(nodes.iter().all(|node| node.unbounded() == 0), "every request says how long it may take");
}

#[tokio::test]
async fn a_node_that_is_not_the_leader_shows_the_way() {
    let [old, new] = [Node::start().await, Node::start().await];
    for method in ["open_session", "set"] {
        old.play(method, Play::Fail(status::not_executed("not the leader", Some(&new.address))));
    }
    let client = builder(&[&old]).build().unwrap();
    set(&client, "a").await.unwrap();
    set(&client, "b").await.unwrap();
    assert_eq!(new.heard()[0], Heard::OpenSession);
    assert_eq!(new.sets().len(), 2);
    assert!(old.sets().is_empty(), "the hint is remembered");
}

#[tokio::test]
async fn a_dead_address_among_the_given_ones_costs_nothing_but_a_moment() {
    let node = single().await;
    let client = Client::builder().endpoints([DEAD, &*node.address]).build().unwrap();
    set(&client, "a").await.unwrap();
    get(&client, "a", Consistency::Stale).await.unwrap();
}

#[tokio::test]
async fn given_addresses_remain_when_all_the_learned_ones_are_dead() {
    let node = Node::start().await;
    let dead = Server { id: "dead".into(), rpc_addr: DEAD.into(), is_leader: true, ..Server::default() };
    node.set_members(&[dead]);
    let client = informed(builder(&[&node])).await;
    set(&client, "a").await.unwrap();
    get(&client, "a", Consistency::Linearizable).await.unwrap();
}

#[tokio::test]
async fn concurrent_calls_share_one_connection() {
    let node = single().await;
    let client = builder(&[&node]).build().unwrap();
    let calls = (0..50).map(|_| get(&client, "a", Consistency::Stale));
    for read in futures_util::future::join_all(calls).await {
        assert_eq!(read.unwrap().entry, None);
    }
    assert_eq!(node.accepted(), 1);
}

#[tokio::test]
async fn a_read_leaves_a_silent_node_for_another() {
    let nodes = cluster().await;
    let client = informed(builder(&[&nodes[0]]).timeout(Duration::from_millis(900))).await;
    nodes[1].play("get", Play::Silence);
    nodes[2].play("get", Play::Silence);
    nodes[0].set_entries(9, &["a"]);
    assert!(get(&client, "a", Consistency::Linearizable).await.unwrap().entry.is_some());
}

#[tokio::test]
async fn a_read_that_nobody_serves_is_unavailable_and_definite_answers_are_not_asked_twice() {
    let node = single().await;
    let client = informed(builder(&[&node]).timeout(Duration::from_millis(300))).await;
    node.play("get", Play::Fail(Status::invalid_argument("the key is too long")));
    assert!(matches!(get(&client, "a", Consistency::Linearizable).await, Err(Error::Invalid(_))));
    for _ in 0..100 {
        node.play("get", Play::Fail(status::not_executed("the leader is not confirmed", None)));
    }
    assert!(matches!(get(&client, "a", Consistency::Linearizable).await, Err(Error::Unavailable(_))));
}

// ---- what a client may conclude ----

#[tokio::test]
async fn in_a_session_an_unknown_outcome_is_resolved_under_the_same_name() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.play("set", Play::Fail(status::unknown("the forward broke")));
    node.play("set", Play::Cut);
    node.play("set", Play::Fail(status::not_executed("an election", None)));
    set(&client, "a").await.unwrap();
    let name = SessionWrite { session: 1, sequence: 1, lowest_unanswered: 1 };
    assert_eq!(node.names(), [name; 4]);
    set(&client, "b").await.unwrap();
    assert_eq!(node.names()[4], SessionWrite { session: 1, sequence: 2, lowest_unanswered: 2 });
}

#[tokio::test]
async fn without_a_session_a_write_whose_outcome_is_unknown_is_never_sent_again() {
    for play in [
        Play::Cut,
        Play::Fail(status::unknown("the forward broke")),
        Play::Fail(Status::unavailable("a proxy says so")),
        Play::Fail(Status::deadline_exceeded("late")),
    ] {
        let node = single().await;
        let client = informed(builder(&[&node]).sessions(false)).await;
        node.play("set", play);
        assert!(set(&client, "a").await.unwrap_err().is_unknown());
        assert_eq!(node.sets().len(), 1);
        assert_eq!(node.sets()[0].session, None);
    }
}

#[tokio::test]
async fn what_was_certainly_not_executed_is_tried_again_even_without_a_session() {
    let node = single().await;
    let client = informed(builder(&[&node]).sessions(false)).await;
    for _ in 0..3 {
        node.play("set", Play::Fail(status::not_executed("an election", None)));
    }
    set(&client, "a").await.unwrap();
    assert_eq!(node.sets().len(), 4);
}

#[tokio::test]
async fn at_the_deadline_not_executed_and_unknown_are_told_apart() {
    let node = single().await;
    let client = informed(builder(&[&node]).timeout(Duration::from_millis(400))).await;
    set(&client, "opens the session").await.unwrap();
    for _ in 0..100 {
        node.play("set", Play::Fail(status::not_executed("no leader", None)));
    }
    assert!(matches!(set(&client, "a").await, Err(Error::NotExecuted(_))));
    // One attempt in doubt is enough, whatever the others returned.
    let node = single().await;
    let client = informed(builder(&[&node]).timeout(Duration::from_millis(400))).await;
    set(&client, "opens the session").await.unwrap();
    node.play("set", Play::Silence);
    for _ in 0..100 {
        node.play("set", Play::Fail(status::not_executed("no leader", None)));
    }
    assert!(set(&client, "a").await.unwrap_err().is_unknown());
}

#[tokio::test]
async fn nobody_to_connect_to_is_not_executed() {
    let client = Client::builder().endpoints([DEAD]).timeout(Duration::from_millis(200));
    for sessions in [true, false] {
        let client = client.clone().sessions(sessions).build().unwrap();
        let written = set(&client, "a").await;
        assert!(matches!(written, Err(Error::NotExecuted(_))), "{written:?}");
        let read = get(&client, "a", Consistency::Linearizable).await;
        assert!(matches!(read, Err(Error::Unavailable(_))));
    }
}

#[tokio::test]
async fn a_failed_condition_is_definite_and_tells_the_present_revision() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.play("set", Play::Fail(status::unknown("the forward broke")));
    node.play("set", Play::Fail(status::condition_failed(7)));
    let result = client.set_with("a", "value", WriteOptions::if_revision(3)).await;
    assert_eq!(result, Err(Error::ConditionFailed { present_revision: Some(7) }));
    assert_eq!(node.sets()[0].if_revision, Some(3));
    assert_eq!(node.sets().len(), 2);
}

#[tokio::test]
async fn an_expired_session_is_replaced_if_the_write_was_certainly_not_applied() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    set(&client, "a").await.unwrap();
    node.play("set", Play::Fail(status::session_expired()));
    set(&client, "b").await.unwrap();
    let names: Vec<_> = node.names().iter().map(|name| (name.session, name.sequence)).collect();
    assert_eq!(names, [(1, 1), (1, 2), (2, 1)]);
}

#[tokio::test]
async fn an_expired_session_leaves_a_write_in_doubt_unknown() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.play("set", Play::Fail(status::unknown("the forward broke")));
    node.play("set", Play::Fail(status::session_expired()));
    assert!(set(&client, "a").await.unwrap_err().is_unknown());
    assert_eq!(node.names().len(), 2);
    set(&client, "b").await.unwrap();
    assert_eq!(node.names()[2].session, 2, "the session is not used again");
}

#[tokio::test]
async fn the_window_is_kept_and_every_write_has_a_name_of_its_own() {
    let node = single().await;
    node.set_window(2);
    let client = informed(builder(&[&node])).await;
    let writes = (0..20).map(|_| set(&client, "a"));
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    let names = node.names();
    assert!(names.iter().all(|name| name.sequence < name.lowest_unanswered + 2));
    let distinct: BTreeSet<_> = names.iter().map(|name| (name.session, name.sequence)).collect();
    assert_eq!((names.len(), distinct.len()), (20, 20));
    assert_eq!(node.heard().iter().filter(|heard| **heard == Heard::OpenSession).count(), 1);
}

#[tokio::test]
async fn a_write_given_up_in_doubt_ends_its_session_when_the_window_is_used_up() {
    let node = single().await;
    node.set_window(2);
    let client = informed(builder(&[&node])).await;
    set(&client, "a").await.unwrap();
    let impatient = client.with_timeout(Duration::from_millis(100));
    for _ in 0..10 {
        node.play("set", Play::Silence);
    }
    assert!(set(&impatient, "lost").await.unwrap_err().is_unknown());
    let silent = node.names().len();
    for _ in silent..11 {
        let _ = set(&impatient, "lost too").await;
    }
    let until_now = node.names().len();
    set(&client, "b").await.unwrap();
    let names = node.names();
    assert!(names.last().unwrap().session > 1, "a new session: {names:?}");
    assert!(
        names[..until_now].iter().filter(|name| name.session == 1).all(|name| name.lowest_unanswered <= 2)
    );
}

#[tokio::test]
async fn a_cancelled_write_keeps_its_sequence_to_itself() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    set(&client, "a").await.unwrap();
    node.play("set", Play::Silence);
    let cancelled = crate::rt::timeout(Duration::from_millis(200), set(&client, "cancelled")).await;
    assert!(cancelled.is_err());
    set(&client, "b").await.unwrap();
    let last = *node.names().last().unwrap();
    assert_eq!(last, SessionWrite { session: 1, sequence: 3, lowest_unanswered: 2 });
}

#[tokio::test]
async fn a_session_whose_opening_is_in_doubt_is_opened_again_before_anything_is_written() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.play("open_session", Play::Cut);
    node.play("open_session", Play::Fail(status::unknown("the forward broke")));
    set(&client, "a").await.unwrap();
    assert_eq!(node.heard()[..3], [Heard::OpenSession, Heard::OpenSession, Heard::OpenSession]);
    assert_eq!(node.names().len(), 1);
}

#[tokio::test]
async fn closing_closes_the_session_and_the_next_write_opens_another() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    client.close().await.unwrap();
    set(&client, "a").await.unwrap();
    client.close().await.unwrap();
    set(&client, "b").await.unwrap();
    assert!(node.heard().contains(&Heard::CloseSession(1)));
    assert_eq!(node.names()[1].session, 2);
}

#[tokio::test]
async fn a_token_goes_with_every_request_and_into_no_message() {
    let node = single().await;
    let client = informed(builder(&[&node]).token("s3cr3t")).await;
    set(&client, "a").await.unwrap();
    get(&client, "a", Consistency::Stale).await.unwrap();
    client.status(&node.address).await.unwrap();
    client.close().await.unwrap();
    assert_eq!(node.tokens(), BTreeSet::from([Some("Bearer s3cr3t".to_owned())]));
    assert!(!format!("{:?}", builder(&[&node]).token("s3cr3t")).contains("s3cr3t"));
    let refused = builder(&[&node]).token("two\nlines").build().unwrap_err();
    assert!(matches!(&refused, Error::Invalid(why) if !why.as_str().contains("lines")), "{refused:?}");
}

#[tokio::test]
async fn a_key_that_is_no_text_is_sent_as_it_is_and_an_endpoint_that_is_none_is_refused() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    client.set([0xff, 0], "value").await.unwrap();
    let keys = node.heard().into_iter().filter_map(|heard| match heard {
        Heard::Set(set) => Some(set.key),
        _ => None,
    });
    assert_eq!(keys.collect::<Vec<_>>(), [Bytes::from_static(&[0xff, 0])]);
    for endpoint in ["", "host", ":1", "host:0", "host:port", "http://host:1"] {
        let refused = Client::builder().endpoints([endpoint]).build();
        assert!(matches!(refused, Err(Error::Invalid(_))), "{endpoint}");
    }
    assert!(Client::builder().build().is_err());
}

// ---- operators ----

#[tokio::test]
async fn commands_go_to_the_leader_and_questions_to_the_node_they_name() {
    let nodes = cluster().await;
    let client = informed(builder(&[&nodes[1]])).await;
    assert_eq!(client.remove_member("node-2").await, Ok(NodeId(3)));
    assert_eq!(client.transfer_leader(Some("node-1")).await.as_deref(), Ok("node-1"));
    assert_eq!(client.configure(SettingsChange::none().max_sessions(5)).await.unwrap().max_sessions, 5);
    let commands = |node: &Node| node.heard().into_iter().filter(|heard| *heard == Heard::Admin).count();
    assert_eq!(nodes.each_ref().map(commands), [3, 0, 0]);
    for node in &nodes {
        assert_eq!(client.status(&node.address).await.unwrap().rpc_addr, node.address);
        assert_eq!(client.snapshot(&node.address).await, Ok(100));
    }
    assert!(matches!(client.status(DEAD).await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_backup_comes_in_order_and_says_when_it_is_broken_off() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    let mut backup = client.backup().await.unwrap();
    assert_eq!(backup.info().keys, 7);
    assert_eq!(backup.next().await.unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(backup.next().await.unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(backup.next().await, Ok(None));
    node.play("backup", Play::CutAfter(2));
    let mut broken = client.backup().await.unwrap();
    broken.next().await.unwrap();
    let error = broken.next().await.unwrap_err();
    assert!(error.to_string().contains("this node is stopping"), "{error}");
}

#[tokio::test]
async fn a_command_that_may_have_been_executed_is_not_sent_again() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.play("remove_member", Play::Cut);
    assert!(client.remove_member("node-0").await.unwrap_err().is_unknown());
    assert_eq!(node.heard(), [Heard::Admin]);
    node.play("remove_member", Play::Fail(Status::not_found("no member is called 'x'")));
    assert!(matches!(client.remove_member("x").await, Err(Error::NotFound(_))));
}

// ---- reads ----

#[tokio::test]
async fn an_absent_key_is_an_answer_with_a_revision() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    let read = get(&client, "absent", Consistency::Linearizable).await.unwrap();
    assert_eq!(read, Read { revision: 100, entry: None });
}

#[tokio::test]
async fn stale_reads_ask_for_no_less_than_what_was_seen() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.set_entries(7, &["a"]);
    let entry = get(&client, "a", Consistency::Linearizable).await.unwrap().entry.unwrap();
    assert_eq!((&*entry.key, &*entry.value), (&b"a"[..], &b"v"[..]));
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (1, 2, 3));
    get(&client, "a", Consistency::Stale).await.unwrap();
    node.set_entries(40, &[]);
    get(&client, "absent", Consistency::Linearizable).await.unwrap();
    get(&client, "a", Consistency::Stale).await.unwrap();
    assert_eq!(client.delete("a").await.unwrap().revision, 40);
    let floors: Vec<_> = node
        .heard()
        .into_iter()
        .filter_map(|heard| match heard {
            Heard::Get(get) => Some((get.consistency, get.min_revision)),
            _ => None,
        })
        .collect();
    assert_eq!(floors, [(0, 0), (1, 7), (0, 0), (1, 40)]);
}

async fn keys(listing: &mut Listing) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    while let Some(entry) = listing.next().await? {
        keys.push(String::from_utf8(entry.key.to_vec()).unwrap());
    }
    Ok(keys)
}

#[tokio::test]
async fn a_listing_that_breaks_goes_on_elsewhere_at_the_same_revision() {
    let nodes = cluster().await;
    for node in &nodes {
        node.set_entries(9, &["a", "b", "c", "d"]);
    }
    let client = informed(builder(&[&nodes[0]])).await;
    nodes[1].play("list", Play::CutAfter(2));
    nodes[2].play("list", Play::CutAfter(2));
    let mut listing = client.list_with(ListOptions::all().limit(4)).await.unwrap();
    assert_eq!(listing.revision(), 9);
    assert_eq!(keys(&mut listing).await.unwrap(), ["a", "b", "c", "d"]);
    assert_eq!(listing.next().await, Ok(None));
    let asked: Vec<_> = nodes
        .iter()
        .flat_map(Node::heard)
        .filter_map(|heard| match heard {
            Heard::List(list) => Some((list.start_after, list.limit, list.at_revision)),
            _ => None,
        })
        .collect();
    assert!(asked.contains(&(Bytes::new(), 4, 0)));
    assert!(asked.contains(&("b".into(), 2, 9)), "{asked:?}");
}

#[tokio::test]
async fn a_listing_whose_revision_is_gone_fails_rather_than_mix_two() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.set_entries(9, &["a", "b"]);
    node.play("list", Play::CutAfter(1));
    node.play("list", Play::Fail(status::compacted(9, 20)));
    let mut listing = client.list("").await.unwrap();
    assert!(matches!(keys(&mut listing).await, Err(Error::RevisionGone(_))));
    // The client rejects an answer at another revision.
    node.play("list", Play::CutAfter(1));
    let mut listing = client.list("").await.unwrap();
    assert!(listing.next().await.unwrap().is_some());
    node.set_entries(10, &["a", "b", "c"]);
    assert!(matches!(listing.next().await, Err(Error::RevisionGone(_))));
}

// ---- the history ----

/// Revisions and places of what comes.
async fn places(changes: &mut Changes) -> Result<Vec<(u64, u32)>, Error> {
    let mut places = Vec::new();
    while let Some(change) = changes.next().await? {
        places.push((change.position.revision, change.position.place));
    }
    Ok(places)
}

/// The requests for changes, at any node.
fn asked_for_changes(nodes: &[Node]) -> Vec<api::ChangesRequest> {
    let heard = nodes.iter().flat_map(Node::heard).filter_map(|heard| match heard {
        Heard::Changes(request) => Some(request),
        _ => None,
    });
    heard.collect()
}

#[tokio::test]
async fn changes_that_break_off_within_a_transaction_go_on_elsewhere_behind_the_last_one() {
    let nodes = cluster().await;
    for node in &nodes {
        node.set_changes(9, &[(3, 0, "a"), (4, 0, "b"), (4, 1, "a"), (4, 2, "c"), (6, 0, "b")]);
        node.play("changes", Play::CutAfter(2));
    }
    let client = informed(builder(&[&nodes[0]])).await;
    let options = ChangesOptions::prefix("").from_revision(2);
    let mut changes = client.changes_with(options).await.unwrap();
    assert_eq!(changes.revision(), 9);
    assert_eq!(places(&mut changes).await.unwrap(), [(3, 0), (4, 0), (4, 1), (4, 2), (6, 0)]);
    assert_eq!(changes.next().await, Ok(None));
    assert!(StreamExt::next(&mut changes).await.is_none());
    let asked = asked_for_changes(&nodes);
    let first = asked.iter().find(|request| request.start_after.is_none()).unwrap();
    assert_eq!((first.from_revision, first.to_revision, first.min_revision), (2, 0, 0));
    let last = Some(api::Position { revision: 4, place: 0, cluster: CLUSTER });
    let again = asked.iter().find(|request| request.start_after == last).unwrap();
    assert_eq!(
        (again.from_revision, again.to_revision, again.min_revision),
        (0, 9, 9),
        "what is behind may be gone"
    );
}

#[tokio::test]
async fn a_limit_of_changes_is_kept_over_interruptions_and_ends_with_a_whole_revision() {
    let node = single().await;
    node.set_changes(9, &[(3, 0, "a"), (4, 0, "b"), (4, 1, "a"), (4, 2, "c"), (6, 0, "b")]);
    let client = informed(builder(&[&node])).await;
    let limited = async |limit: u64| {
        let mut changes = client.changes_with(ChangesOptions::all().limit(limit)).await?;
        places(&mut changes).await
    };
    let first = [(3, 0), (4, 0), (4, 1), (4, 2)];
    assert_eq!(limited(0).await.unwrap(), [], "none, not all");
    assert_eq!(limited(2).await.unwrap(), first);
    for cut_after in 0..=4 {
        node.play("changes", Play::CutAfter(cut_after));
        assert_eq!(limited(2).await.unwrap(), first, "cut after {cut_after}");
        node.play("changes", Play::CutAfter(cut_after.min(1)));
        assert_eq!(limited(1).await.unwrap(), first[..1], "cut after {cut_after}");
    }
    // The rest of a page begins behind what is known.
    let known = ChangesOptions::all().start_after(Position { revision: 4, place: 1, cluster: None });
    node.play("changes", Play::CutAfter(0));
    let mut rest = client.changes_with(known).await.unwrap();
    assert_eq!(places(&mut rest).await.unwrap(), [(4, 2), (6, 0)]);
}

#[tokio::test]
async fn versions_go_on_behind_the_last_one_and_a_limit_is_kept() {
    let nodes = cluster().await;
    for node in &nodes {
        node.set_changes(9, &[(3, 0, "a"), (4, 0, "b"), (4, 1, "a"), (6, 0, "a"), (7, 0, "a")]);
        node.play("versions", Play::CutAfter(1));
    }
    let client = informed(builder(&[&nodes[0]])).await;
    let options = VersionsOptions::all().from_revision(3).limit(3);
    let mut versions = client.versions_with("a", options).await.unwrap();
    assert_eq!(versions.revision(), 9);
    assert_eq!(places(&mut versions).await.unwrap(), [(3, 0), (4, 1), (6, 0)]);
    let asked: Vec<_> = nodes
        .iter()
        .flat_map(Node::heard)
        .filter_map(|heard| match heard {
            Heard::Versions(request) => {
                let after = request.start_after.map(|last| (last.revision, last.cluster));
                Some((request.from_revision, request.to_revision, after, request.limit))
            }
            _ => None,
        })
        .collect();
    assert!(asked.contains(&(3, 0, None, 3)), "{asked:?}");
    assert!(asked.contains(&(0, 9, Some((3, CLUSTER)), 2)), "{asked:?}");
    assert_eq!(client.versions("none").await.unwrap().next().await, Ok(None));
}

#[tokio::test]
async fn changes_whose_rest_is_compacted_fail_rather_than_leave_a_gap() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.set_changes(9, &[(3, 0, "a"), (4, 0, "b")]);
    node.play("changes", Play::CutAfter(1));
    node.play("changes", Play::Fail(status::compacted(3, 20)));
    let mut changes = client.changes("").await.unwrap();
    let change = changes.next().await.unwrap().unwrap();
    let first = Position { revision: 3, place: 0, cluster: NonZeroU64::new(CLUSTER) };
    assert_eq!((&change.key[..], change.position), (&b"a"[..], first));
    let entry = change.entry.unwrap();
    assert_eq!((entry.mod_revision, entry.create_revision, entry.version), (3, 1, 3));
    assert!(matches!(changes.next().await, Err(Error::RevisionGone(_))));
    assert_eq!(changes.next().await, Ok(None));
    node.play("changes", Play::Fail(status::future_revision(30, 9)));
    let future = client.changes_with(ChangesOptions::all().from_revision(30)).await;
    assert!(matches!(future, Err(Error::Invalid(_))), "{future:?}");
}

#[tokio::test]
async fn changes_that_fall_silent_are_asked_for_again() {
    let node = single().await;
    let client = informed(builder(&[&node]).timeout(Duration::from_millis(300))).await;
    node.set_changes(9, &[(3, 0, "a"), (4, 0, "b")]);
    node.play("changes", Play::StallAfter(1));
    let mut changes = client.changes("").await.unwrap();
    assert_eq!(places(&mut changes).await.unwrap(), [(3, 0), (4, 0)]);
}

// ---- listings and backups as streams ----

#[tokio::test]
async fn a_listing_is_a_stream_that_goes_on_elsewhere_and_ends_once() {
    let nodes = cluster().await;
    for node in &nodes {
        node.set_entries(9, &["a", "b", "c", "d"]);
        node.play("list", Play::CutAfter(2));
    }
    let client = informed(builder(&[&nodes[0]])).await;
    let mut listing = client.list("").await.unwrap();
    let mut keys = Vec::new();
    while let Some(entry) = StreamExt::next(&mut listing).await {
        keys.push(entry.unwrap().key);
    }
    assert_eq!(keys, ["a", "b", "c", "d"]);
    assert!(StreamExt::next(&mut listing).await.is_none());
    assert_eq!(listing.next().await, Ok(None));
}

#[tokio::test]
async fn a_stream_ends_after_its_error() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.set_entries(9, &["a", "b"]);
    node.play("list", Play::CutAfter(1));
    node.play("list", Play::Fail(status::compacted(9, 20)));
    let mut entries = client.list("").await.unwrap();
    assert!(matches!(StreamExt::next(&mut entries).await, Some(Ok(_))));
    assert!(matches!(StreamExt::next(&mut entries).await, Some(Err(Error::RevisionGone(_)))));
    assert!(StreamExt::next(&mut entries).await.is_none());
    node.play("backup", Play::CutAfter(1));
    let mut pieces = client.backup().await.unwrap();
    assert!(matches!(StreamExt::next(&mut pieces).await, Some(Err(Error::Unavailable(_)))));
    assert!(StreamExt::next(&mut pieces).await.is_none());
}

#[tokio::test]
async fn a_listing_that_falls_silent_is_resumed_also_after_its_reader_gave_up_once() {
    let node = single().await;
    let client = informed(builder(&[&node]).timeout(Duration::from_millis(300))).await;
    node.set_entries(9, &["a", "b"]);
    node.play("list", Play::StallAfter(1));
    let mut listing = client.list("").await.unwrap();
    assert_eq!(listing.next().await.unwrap().unwrap().key, "a");
    let given_up = crate::rt::timeout(Duration::from_millis(50), listing.next()).await;
    assert!(given_up.is_err());
    assert_eq!(listing.next().await.unwrap().unwrap().key, "b");
    assert_eq!(listing.next().await, Ok(None));
}

#[tokio::test]
async fn a_limit_is_kept_over_interruptions_and_none_is_no_limit() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    node.set_entries(9, &["a", "b", "c"]);
    let listed = async |options: ListOptions| {
        let entries: Vec<KeyValue> = client.list_with(options).await?.try_collect().await?;
        Ok::<_, Error>(entries.len())
    };
    assert_eq!(listed(ListOptions::all()).await, Ok(3));
    assert_eq!(listed(ListOptions::all().limit(0)).await, Ok(0), "no keys, not all");
    node.play("list", Play::CutAfter(1));
    assert_eq!(listed(ListOptions::all().limit(2)).await, Ok(2));
}

#[tokio::test]
async fn a_backup_is_a_stream_of_its_bytes() {
    let node = single().await;
    let client = informed(builder(&[&node])).await;
    let pieces: Vec<Bytes> = client.backup().await.unwrap().try_collect().await.unwrap();
    assert_eq!(pieces, ["one", "two"]);
}

// ---- transactions ----

fn transactions(node: &Node) -> Vec<api::TransactRequest> {
    let transactions = node.heard().into_iter().filter_map(|heard| match heard {
        Heard::Transact(request) => Some(request),
        _ => None,
    });
    transactions.collect()
}

#[tokio::test]
async fn a_transaction_that_may_write_has_a_name_and_is_sent_again_under_it() {
    let nodes = cluster().await;
    nodes[0].play("transact", Play::Cut);
    let client = informed(builder(&[&nodes[0]])).await;
    let transaction = Transaction::new()
        .when(Condition::mod_revision("a", Comparison::Greater, 3))
        .then(Operation::set("a", "1"))
        .then(Operation::get("b"));
    let done = client.transact(transaction).await.unwrap();
    assert_eq!((done.revision, done.succeeded), (100, true));
    assert_eq!(done.results, Ok(vec![OperationResult::Set, OperationResult::Got(None)]));
    let sent = nodes.each_ref().map(transactions).concat();
    assert_eq!(sent.len(), 2, "the first one broke off");
    assert!(sent[0].session.is_some() && sent[0] == sent[1]);
}

#[tokio::test]
async fn a_transaction_that_only_reads_goes_to_a_follower_and_has_no_name() {
    let nodes = cluster().await;
    let client = informed(builder(&[&nodes[0]])).await;
    nodes.iter().for_each(|node| node.set_entries(9, &["a"]));
    let read = client.get_many(["a", "b"]).await.unwrap();
    assert_eq!(read.revision, 9);
    let keys: Vec<_> = read.entries.iter().map(|entry| entry.as_ref().map(|entry| &entry.key[..])).collect();
    assert_eq!(keys, [Some(&b"a"[..]), None]);
    assert!(transactions(&nodes[0]).is_empty(), "the leader is spared");
    let sent = [transactions(&nodes[1]), transactions(&nodes[2])].concat();
    assert!(sent.len() == 1 && sent[0].session.is_none());
}

#[tokio::test]
async fn many_keys_are_read_at_the_revision_of_the_first() {
    let node = single().await;
    let client = builder(&[&node]).build().unwrap();
    let read = client.get_many((0..300).map(|number| number.to_string())).await.unwrap();
    assert_eq!((read.revision, read.entries.len()), (100, 300));
    let asked: Vec<(usize, BTreeSet<u64>)> = transactions(&node)
        .iter()
        .map(|sent| {
            let revisions = sent.then.iter().map(|operation| match operation.operation.as_ref().unwrap() {
                api::operation::Operation::Get(get) => get.at_revision,
                other => panic!("{other:?}"),
            });
            (sent.then.len(), revisions.collect())
        })
        .collect();
    assert_eq!(asked, [(128, [0].into()), (128, [100].into()), (44, [100].into())]);
    assert_eq!(client.get_many(Vec::<String>::new()).await.unwrap().revision, 100, "the present one");
}

#[tokio::test]
async fn a_prefix_is_deleted_in_parts() {
    let node = single().await;
    let names: Vec<String> = (0..2_300).map(|number| number.to_string()).collect();
    node.set_entries(9, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let client = builder(&[&node]).build().unwrap();
    node.play("transact", Play::Fail(status::transaction_too_large("so many")));
    let deleted = client.delete_prefix("a/").await.unwrap();
    assert_eq!((deleted.deleted, deleted.revision), (2_300, 9));
    let sent = transactions(&node);
    assert_eq!(sent.len(), 1 + 5, "half as many at a time after a refusal");
    assert!(sent.iter().all(|sent| sent.session.is_some()));
}

#[tokio::test]
async fn a_transaction_that_is_none_is_not_sent() {
    let node = single().await;
    let client = builder(&[&node]).build().unwrap();
    let twice = Transaction::new().then(Operation::set("a", "1")).then(Operation::delete("a"));
    assert!(matches!(client.transact(twice).await, Err(Error::Invalid(_))));
    let at_zero = Operation::Get { key: "a".into(), at_revision: Some(0) };
    assert!(matches!(client.transact(Transaction::new().then(at_zero)).await, Err(Error::Invalid(_))));
    assert!(transactions(&node).is_empty());
}
