//! The rules of the map, one test each.

use super::*;
use crate::replicated_settings::SettingsChange;
use crate::transaction::Operation;

/// A map with a log: entries get the next index, and tests use keys and values.
#[derive(Default)]
struct Replica {
    map: Map,
    index: u64,
}

impl Replica {
    fn apply(&mut self, command: Command) -> Answer {
        self.index += 1;
        self.map.apply(self.index, &command).answer
    }

    fn set(&mut self, key: &str, value: &str) -> Answer {
        self.apply(set(key, value))
    }

    fn delete(&mut self, key: &str) -> Answer {
        self.apply(delete(key))
    }

    fn open(&mut self) -> u64 {
        match self.apply(Command::OpenSession) {
            Answer::SessionOpened { session } => session,
            other => panic!("a session opens, not {other:?}"),
        }
    }

    /// Sets key "k" to `value` as the session's write number `sequence`.
    fn send(&mut self, session: u64, sequence: u64, lowest_unanswered: u64, value: &str) -> Answer {
        self.apply(set("k", value).of(session, sequence, lowest_unanswered))
    }

    fn configure(&mut self, max_sessions: Option<u64>, max_store_bytes: Option<u64>) -> Answer {
        let max_store_bytes = max_store_bytes.map(NonZeroU64::new);
        let change = SettingsChange { max_sessions, max_store_bytes, ..SettingsChange::none() };
        self.apply(Command::Configure(change))
    }

    fn value(&self, key: &str) -> Option<&[u8]> {
        self.map.get(key.as_bytes()).map(Record::value)
    }

    fn revisions(&self, key: &str) -> (u64, u64, u64) {
        let entry = self.map.get(key.as_bytes()).expect("the key exists");
        (entry.create_revision(), entry.revision(), entry.version())
    }
}

fn set(key: &str, value: &str) -> Command {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    Command::Set(log::Set { key, value, ..Default::default() })
}

fn delete(key: &str) -> Command {
    Command::Delete(log::Delete { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() })
}

impl Command {
    fn of(mut self, session: u64, sequence: u64, lowest_unanswered: u64) -> Command {
        let write = Some(SessionWrite { session, sequence, lowest_unanswered });
        match &mut self {
            Command::Set(set) => set.session = write,
            Command::Delete(delete) => delete.session = write,
            other => panic!("{other:?} is no write"),
        }
        self
    }

    fn if_revision(mut self, revision: u64) -> Command {
        match &mut self {
            Command::Set(set) => set.if_revision = Some(revision),
            Command::Delete(delete) => delete.if_revision = Some(revision),
            other => panic!("{other:?} is no write"),
        }
        self
    }
}

#[test]
fn a_key_counts_its_writes_until_it_is_deleted() {
    let mut store = Replica::default();
    assert_eq!(store.set("a", "1"), Answer::Written { revision: 2 });
    assert_eq!(store.set("b", "1"), Answer::Written { revision: 3 });
    assert_eq!(store.set("a", "2"), Answer::Written { revision: 4 });
    assert_eq!(store.revisions("a"), (2, 4, 2));
    assert_eq!(store.delete("a"), Answer::Deleted { revision: 5, existed: true });
    assert_eq!(store.value("a"), None);
    assert_eq!(store.set("a", "3"), Answer::Written { revision: 6 });
    assert_eq!(store.revisions("a"), (6, 6, 1));
}

#[test]
fn deleting_an_absent_key_takes_no_revision() {
    let mut store = Replica::default();
    store.set("a", "1");
    assert_eq!(store.delete("b"), Answer::Deleted { revision: 2, existed: false });
    assert_eq!(store.map.revision(), 2);
}

#[test]
fn a_condition_that_fails_returns_the_present_revision_and_takes_none() {
    let mut store = Replica::default();
    assert_eq!(store.apply(set("a", "1").if_revision(8)), Answer::ConditionFailed { present_revision: 0 });
    assert_eq!(store.apply(set("a", "1").if_revision(0)), Answer::Written { revision: 2 });
    assert_eq!(store.apply(set("a", "2").if_revision(0)), Answer::ConditionFailed { present_revision: 2 });
    assert_eq!(store.apply(delete("a").if_revision(0)), Answer::ConditionFailed { present_revision: 2 });
    assert_eq!(store.apply(set("a", "2").if_revision(2)), Answer::Written { revision: 3 });
    assert_eq!(store.apply(delete("a").if_revision(2)), Answer::ConditionFailed { present_revision: 3 });
    assert_eq!(store.apply(delete("a").if_revision(3)), Answer::Deleted { revision: 4, existed: true });
    assert_eq!(store.apply(delete("a").if_revision(3)), Answer::ConditionFailed { present_revision: 0 });
    assert_eq!(store.apply(delete("a").if_revision(0)), Answer::Deleted { revision: 4, existed: false });
}

#[test]
fn a_change_holds_the_old_and_the_new_entry() {
    let mut map = Map::new();
    let created = map.apply(1, &set("a", "1")).changes.pop().unwrap();
    assert_eq!((created.new.revision(), created.new.key(), &created.old), (2, &b"a"[..], &None));
    let changed = map.apply(2, &set("a", "2")).changes.pop().unwrap();
    assert_eq!((changed.new.revision(), changed.old), (3, Some(created.new)));
    let deleted = map.apply(3, &delete("a")).changes.pop().unwrap();
    assert_eq!(
        (deleted.new.revision(), deleted.old, deleted.new.is_deletion()),
        (4, Some(changed.new), true)
    );
    assert_eq!(map.apply(4, &delete("a")).changes, []);
    assert_eq!(map.apply(5, &set("a", "3").if_revision(10)).changes, []);
}

#[test]
fn a_write_sent_twice_is_applied_once_and_answered_alike() {
    let mut store = Replica::default();
    let session = store.open();
    assert_eq!(store.send(session, 1, 1, "mine"), Answer::Written { revision: 2 });
    store.set("k", "theirs");
    assert_eq!(store.send(session, 1, 1, "mine"), Answer::Written { revision: 2 });
    assert_eq!(store.value("k"), Some(&b"theirs"[..]));
    assert_eq!(store.map.revision(), 3);
}

#[test]
fn a_repeated_write_makes_no_change_to_listen_to() {
    let mut map = Map::new();
    map.apply(1, &Command::OpenSession);
    assert_eq!(map.apply(2, &set("k", "v").of(1, 1, 1)).changes.len(), 1);
    assert_eq!(map.apply(3, &set("k", "v").of(1, 1, 1)).changes, []);
}

#[test]
fn refusals_are_remembered_too() {
    let mut store = Replica::default();
    let session = store.open();
    let create = || set("k", "v").if_revision(0);
    store.set("k", "theirs");
    let refused = store.apply(create().of(session, 1, 1));
    assert_eq!(refused, Answer::ConditionFailed { present_revision: 2 });
    store.delete("k");
    assert_eq!(store.apply(create().of(session, 1, 1)), refused, "though today it would succeed");

    store.configure(None, Some(1));
    let full = store.send(session, 2, 1, "too much");
    assert_eq!(full, Answer::StoreFull { max_store_bytes: 1 });
    store.configure(None, Some(0));
    assert_eq!(store.send(session, 2, 1, "too much"), full);
    assert_eq!(store.map.keys(), 0);
}

#[test]
fn writes_of_a_session_may_arrive_in_any_order() {
    let mut store = Replica::default();
    let session = store.open();
    assert_eq!(store.send(session, 3, 1, "three"), Answer::Written { revision: 2 });
    assert_eq!(store.send(session, 1, 1, "one"), Answer::Written { revision: 3 });
    assert_eq!(store.send(session, 2, 1, "two"), Answer::Written { revision: 4 });
    assert_eq!(store.send(session, 3, 1, "three"), Answer::Written { revision: 2 });
    assert_eq!(store.send(session, 1, 1, "one"), Answer::Written { revision: 3 });
}

#[test]
fn what_the_client_has_an_answer_for_is_forgotten_and_refused() {
    let mut store = Replica::default();
    let session = store.open();
    store.send(session, 1, 1, "one");
    store.send(session, 2, 1, "two");
    assert_eq!(store.send(session, 3, 3, "three"), Answer::Written { revision: 4 });
    // A late copy of an old entry carries an old lowest number; the window does not move back for it.
    assert_eq!(store.send(session, 2, 1, "two"), Answer::OutOfWindow { lowest: 3 });
    assert_eq!(store.send(session, 0, 0, "zero"), Answer::OutOfWindow { lowest: 3 });
    assert_eq!(store.value("k"), Some(&b"three"[..]));
}

#[test]
fn a_sequence_beyond_the_window_is_refused_until_the_window_has_moved() {
    let mut store = Replica::default();
    let window = store.map.session_window();
    let session = store.open();
    assert_eq!(store.send(session, window, 1, "last"), Answer::Written { revision: 2 });
    assert_eq!(store.send(session, window + 1, 1, "next"), Answer::OutOfWindow { lowest: 1 });
    assert_eq!(store.send(session, u64::MAX, 1, "far"), Answer::OutOfWindow { lowest: 1 });
    assert_eq!(store.send(session, window + 1, 2, "next"), Answer::Written { revision: 3 });
}

#[test]
fn a_session_unknown_or_closed_is_expired_and_nothing_is_applied() {
    let mut store = Replica::default();
    assert_eq!(store.send(99, 1, 1, "v"), Answer::SessionExpired);
    let session = store.open();
    store.send(session, 1, 1, "v");
    assert_eq!(store.apply(Command::CloseSession { session }), Answer::SessionClosed { existed: true });
    assert_eq!(store.apply(Command::CloseSession { session }), Answer::SessionClosed { existed: false });
    assert_eq!(store.send(session, 1, 1, "v"), Answer::SessionExpired);
    assert_eq!(store.send(session, 2, 1, "v"), Answer::SessionExpired);
    assert_eq!(store.apply(delete("k").of(session, 3, 1)), Answer::SessionExpired);
    assert_eq!((store.map.revision(), store.map.sessions()), (2, 0));
}

#[test]
fn of_too_many_sessions_the_least_recently_applied_goes() {
    let mut store = Replica::default();
    store.configure(Some(2), None);
    let (first, second) = (store.open(), store.open());
    store.send(first, 1, 1, "v"); // Used again: the second is now the least recently used.
    let third = store.open();
    assert_eq!(store.send(second, 1, 1, "lost"), Answer::SessionExpired);
    assert_eq!(store.send(first, 1, 1, "v"), Answer::Written { revision: 2 });
    assert_eq!(store.send(third, 1, 1, "v"), Answer::Written { revision: 3 });
}

#[test]
fn lowering_the_bound_evicts_at_once_but_always_leaves_one() {
    let mut store = Replica::default();
    let sessions = [store.open(), store.open(), store.open()];
    assert_eq!(store.configure(Some(0), None), Answer::Done);
    assert_eq!((store.map.settings().max_sessions, store.map.sessions()), (1, 1));
    assert_eq!(store.send(sessions[2], 1, 1, "v"), Answer::Written { revision: 2 });
}

#[test]
fn a_full_store_refuses_what_grows_it_and_admits_what_does_not() {
    let mut store = Replica::default();
    store.set("a", "12345");
    assert_eq!((store.map.bytes(), store.map.size()), (6, 86));
    store.configure(None, Some(168));
    assert_eq!(store.set("b", "12"), Answer::StoreFull { max_store_bytes: 168 });
    assert_eq!(store.set("b", "1"), Answer::Written { revision: 3 });
    assert_eq!(store.set("a", "123456"), Answer::StoreFull { max_store_bytes: 168 });

    store.configure(None, Some(3));
    assert_eq!(store.set("a", "54321"), Answer::Written { revision: 4 }, "no larger than before");
    assert_eq!(store.delete("b"), Answer::Deleted { revision: 5, existed: true });
    assert_eq!(store.set("a", "1"), Answer::Written { revision: 6 });
    assert_eq!(store.map.bytes(), 2);
    assert_eq!(store.set("c", "1"), Answer::StoreFull { max_store_bytes: 3 });
}

#[test]
fn sessions_count_against_the_bound() {
    let mut store = Replica::default();
    store.configure(None, Some(600));
    store.open();
    assert_eq!(store.map.size(), 512);
    assert_eq!(store.set("k", "1234567"), Answer::Written { revision: 2 });
    assert_eq!(store.set("k", "12345678"), Answer::StoreFull { max_store_bytes: 600 });
}

#[test]
fn the_history_of_a_full_store_gives_way() {
    let mut store = Replica::default();
    let value = "v".repeat(100);
    for _ in 0..500 {
        store.set("k", &value);
    }
    assert_eq!((store.map.floor(), store.map.versions()), (1, 500));
    let bound = 150 * store.map.size();
    store.configure(None, Some(bound));
    let floor = store.map.revision() - Settings::default().history_min_revisions;
    assert_eq!(store.map.floor(), floor, "what is kept by all means fits");
    assert!(store.map.size() + store.map.history_size() <= bound);

    store.configure(None, Some(store.map.size()));
    assert_eq!((store.map.floor(), store.map.versions()), (store.map.revision(), 1), "it does not fit");
    assert_eq!(store.set("k", &value), Answer::Written { revision: 502 }, "history refuses no write");
    assert_eq!(store.delete("k"), Answer::Deleted { revision: 503, existed: true });
    assert_eq!(store.map.history_size(), 81, "the deletion, which is at the floor");
}

#[test]
fn a_compaction_raises_the_floor_once_and_never_beyond_the_present() {
    let mut store = Replica::default();
    for _ in 0..5 {
        store.set("k", "v");
    }
    assert_eq!(store.apply(Command::Compact { revision: 7 }), Answer::FutureRevision { present: 6 });
    assert_eq!(store.map.floor(), 1);
    assert_eq!(store.apply(Command::Compact { revision: 4 }), Answer::Compacted { floor: 4, raised: true });
    assert_eq!(store.apply(Command::Compact { revision: 4 }), Answer::Compacted { floor: 4, raised: false });
    assert_eq!(store.apply(Command::Compact { revision: 2 }), Answer::Compacted { floor: 4, raised: false });
    assert_eq!(store.map.get_at(b"k", 4).map(Record::version), Some(3));
    assert_eq!((store.map.versions(), store.map.revision()), (3, 6), "it takes no revision");
}

#[test]
fn a_new_cluster_makes_no_revision_of_the_old_one_again() {
    let mut store = Replica::default();
    store.set("a", "1");
    store.set("a", "2");
    store.set("b", "1");
    store.delete("b");
    let session = store.open();
    store.send(session, 1, 1, "v");
    store.map.begin_anew();
    let begun = 6 + Map::RENEWAL_GAP;
    assert_eq!((store.map.revision(), store.map.floor(), store.map.versions()), (begun, begun, 2));
    assert_eq!(store.map.get(b"a").map(Record::revision), Some(3), "a key keeps its own revisions");
    assert_eq!(store.send(session, 1, 1, "v"), Answer::Written { revision: 6 }, "what is sent again");
    assert_eq!(store.set("a", "3"), Answer::Written { revision: begun + 1 });
    assert_eq!(store.revisions("a"), (2, begun + 1, 3));
    let mut restore = Restore::new();
    store.map.blocks().for_each(|block| restore.add_block(&block).unwrap());
    assert_eq!(restore.finish(store.map.digest()).unwrap(), store.map);
}

#[test]
fn removal_is_paced_by_the_log() {
    let mut store = Replica::default();
    for _ in 0..5_000 {
        store.set("k", "v");
    }
    store.apply(Command::Compact { revision: 5_001 });
    assert_eq!(store.map.versions(), 5_000 - 16 + 1, "the first of them replaced nothing");
    store.set("other", "v");
    assert_eq!(store.map.versions(), 5_000 - 32 + 2 - 2, "and two for the change that it makes");
    store.apply(Command::Prune);
    assert_eq!(store.map.versions(), 5_000 - 32 - 1024);
    for _ in 0..4 {
        store.apply(Command::Prune);
    }
    assert_eq!((store.map.versions(), store.map.has_removable()), (2, false));
}

#[test]
fn the_floor_for_a_size_is_reached_in_a_few_compactions() {
    let mut store = Replica::default();
    for number in 0..2_000 {
        // Values that grow, and keys that stay.
        store.set(if number % 3 == 0 { "a" } else { "b" }, &"v".repeat(number));
        store.set(&format!("once/{number}"), "v");
    }
    let wanted = store.map.history_size() / 3;
    let mut compactions = 0;
    while store.map.history_size() > wanted {
        let floor = store.map.floor_for(wanted);
        assert!(floor > store.map.floor(), "each of them removes something");
        store.apply(Command::Compact { revision: floor });
        for _ in 0..9 {
            store.apply(Command::Prune);
        }
        compactions += 1;
    }
    assert!(compactions < 20, "{compactions}");
    assert!(store.map.history_size() > wanted / 2, "{} of {wanted}", store.map.history_size());
    assert_eq!(store.map.floor_for(wanted), store.map.floor());
}

#[test]
fn absent_settings_stay_as_they_are() {
    let mut store = Replica::default();
    store.configure(None, None);
    assert_eq!(store.map.settings(), Settings::default());
    store.configure(None, Some(9));
    store.configure(Some(5), None);
    let expected = Settings { max_sessions: 5, max_store_bytes: NonZeroU64::new(9), ..Settings::default() };
    assert_eq!(store.map.settings(), expected);
}

#[test]
fn a_tombstone_stays_and_the_cluster_version_only_rises() {
    let mut store = Replica::default();
    store.apply(Command::Tombstone { node_id: NodeId(7), name: "node-a".into() });
    store.apply(Command::Tombstone { node_id: NodeId(7), name: "another".into() });
    assert!(store.map.is_tombstoned(NodeId(7)) && !store.map.is_tombstoned(NodeId(8)));
    assert_eq!(store.map.tombstones().collect::<Vec<_>>(), [(NodeId(7), "node-a")]);

    store.apply(Command::ClusterVersion(3));
    store.apply(Command::ClusterVersion(2));
    assert_eq!(store.map.cluster_version(), 3);
    assert_eq!(store.map.revision(), 1, "none of these is a write");
}

#[test]
fn the_first_digest_key_stays() {
    let mut store = Replica::default();
    assert_eq!(store.map.shown_digest(), None, "no key has been drawn");
    let [first, second] = [1, 2].map(|byte| DigestKey::new([byte; DigestKey::BYTES]));
    store.apply(Command::DigestKey(first));
    store.apply(Command::DigestKey(second));
    assert_eq!(store.map.digest_key(), Some(first));
    assert_eq!(store.map.revision(), 1, "none of these is a write");
}

/// The sums before and after a write differ by a number that an observer can compute who guesses the value. The
/// displayed digests do not: two clusters that apply the same commands display different numbers.
#[test]
fn a_shown_digest_distinguishes_states_and_reveals_nothing_else() {
    let keyed = |byte| {
        let mut store = Replica::default();
        store.apply(Command::DigestKey(DigestKey::new([byte; DigestKey::BYTES])));
        store
    };
    let around_a_write = |mut store: Replica| {
        store.set("k", "0000");
        let before = (store.map.digest(), store.map.shown_digest().unwrap().to_string());
        store.set("k", "1234");
        (before, (store.map.digest(), store.map.shown_digest().unwrap().to_string()))
    };
    let number = |shown: &str| u128::from_str_radix(shown, 16).unwrap();
    let (before, after) = around_a_write(keyed(1));
    assert_eq!((&before, &after), (&around_a_write(keyed(1)).0, &around_a_write(keyed(1)).1), "equal states");
    let (others_before, others_after) = around_a_write(keyed(2));
    assert_eq!(
        after.0.wrapping_sub(before.0),
        others_after.0.wrapping_sub(others_before.0),
        "the sums of any cluster differ by what the write was"
    );
    let shown = [&before, &after, &others_before, &others_after].map(|(_, shown)| number(shown));
    let sums = [before.0, after.0, others_before.0, others_after.0];
    let distinct: std::collections::BTreeSet<u128> = shown.into_iter().chain(sums).collect();
    assert_eq!(distinct.len(), 8, "each number shown is of its state, its cluster, and no sum");
    assert_ne!(shown[1].wrapping_sub(shown[0]), sums[1].wrapping_sub(sums[0]));
    assert_ne!(shown[1].wrapping_sub(shown[0]), shown[3].wrapping_sub(shown[2]));
}

#[test]
fn a_digest_key_and_the_sum_do_not_show_in_a_map() {
    let mut map = Map::new();
    map.apply(1, &Command::DigestKey(DigestKey::new([0xab; DigestKey::BYTES])));
    let shown = format!("{map:?}");
    let sum = map.digest();
    for secret in ["abab", "171, 171", &format!("{sum:x}"), &sum.to_string()] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn a_range_is_in_byte_order_within_its_prefix_and_after_its_start() {
    let mut store = Replica::default();
    for key in ["b", "ab", "a\u{ff}", "a", "aa", "c"] {
        store.set(key, "");
    }
    let keys = |prefix: &str, start_after: &str| -> Vec<String> {
        let range = KeyRange::prefix(Bytes::copy_from_slice(prefix.as_bytes()));
        let range = store.map.range_at(&range, start_after.as_bytes(), store.map.revision());
        range.map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
    };
    assert_eq!(keys("", ""), ["a", "aa", "ab", "a\u{ff}", "b", "c"]);
    assert_eq!(keys("a", ""), ["a", "aa", "ab", "a\u{ff}"]);
    assert_eq!(keys("a", "aa"), ["ab", "a\u{ff}"]);
    assert_eq!(keys("b", "a"), ["b"], "a start before the prefix adds nothing");
    assert_eq!(keys("a", "b"), [""; 0]);
}

/// Versions of a key that are shown from a revision on, as revision and value; `None`: the key was deleted.
fn versions(map: &Map, key: &str, from: u64) -> Vec<(u64, Option<String>)> {
    let shown = map.versions_of(key.as_bytes(), from).map(|record| {
        let value = String::from_utf8(record.value().to_vec()).unwrap();
        (record.revision(), (!record.is_deletion()).then_some(value))
    });
    shown.collect()
}

/// Revision, place and key of the changes from a place on.
fn changes(map: &Map, revision: u64, place: u32) -> Vec<(u64, u32, String)> {
    let changes = map.changes_from(ChangeAt { revision, place }).map(|record| {
        let ChangeAt { revision, place } = record.at();
        (revision, place, String::from_utf8(record.key().to_vec()).unwrap())
    });
    changes.collect()
}

#[test]
fn versions_of_a_key_begin_with_the_one_that_the_first_revision_shows() {
    let mut store = Replica::default();
    store.set("k", "1");
    store.set("k/other", "x");
    store.set("k", "2");
    store.delete("k");
    store.set("k", "3");
    let written = |revision, value: &str| (revision, Some(value.to_owned()));
    let all = [written(2, "1"), written(4, "2"), (5, None), written(6, "3")];
    assert_eq!(versions(&store.map, "k", 1), all);
    assert_eq!(versions(&store.map, "k", 3), all, "revision 3 shows what 2 has written");
    assert_eq!(versions(&store.map, "k", 4), all[1..], "at 4 it was replaced");
    assert_eq!(versions(&store.map, "k", 5), all[2..], "a deletion shows where it was made");
    assert_eq!(versions(&store.map, "k", 6), all[3..]);
    assert_eq!(versions(&store.map, "k", 7), all[3..], "it is there still");
    assert_eq!(versions(&store.map, "k/", 1), []);
    assert_eq!(versions(&store.map, "k/other", 7), [written(3, "x")]);
}

#[test]
fn what_removal_has_not_reached_does_not_show() {
    let mut store = Replica::default();
    for number in 0..1_000 {
        store.set("k", &number.to_string());
    }
    store.delete("k");
    store.set("other", "x");
    let (present, kept) = (store.map.revision(), store.map.versions());
    store.apply(Command::Compact { revision: present });
    assert!(store.map.versions() > kept / 2, "most are still to be removed");
    assert_eq!(versions(&store.map, "k", 1), [], "a deletion below the floor, as if it had never been");
    assert_eq!(changes(&store.map, 1, 0), [(present, 0, "other".to_owned())], "the floor's own");

    let mut store = Replica::default();
    store.set("k", "1");
    store.delete("k");
    store.apply(Command::Compact { revision: 3 });
    assert_eq!(versions(&store.map, "k", 3), [(3, None)], "a deletion exactly at the floor");
    assert_eq!(changes(&store.map, 3, 0), [(3, 0, "k".to_owned())]);
    store.set("other", "x");
    store.apply(Command::Compact { revision: 4 });
    assert_eq!(versions(&store.map, "k", 4), []);
}

#[test]
fn changes_are_found_by_revision_and_place() {
    let mut store = Replica::default();
    assert_eq!(changes(&store.map, 1, 0), []);
    store.set("a", "1");
    let transaction = Transaction::new()
        .then(Operation::delete("a"))
        .then(Operation::set("c", "1"))
        .then(Operation::set("b", "1"));
    store.apply(Command::Transaction { transaction, session: None });
    store.set("a", "2");
    let all = [(2, 0, "a"), (3, 0, "a"), (3, 1, "c"), (3, 2, "b"), (4, 0, "a")];
    let all = all.map(|(revision, place, key)| (revision, place, key.to_owned()));
    assert_eq!(changes(&store.map, 0, 7), all);
    assert_eq!(changes(&store.map, 3, 0), all[1..]);
    assert_eq!(changes(&store.map, 3, 2), all[3..]);
    assert_eq!(changes(&store.map, 3, 3), all[4..]);
    assert_eq!(changes(&store.map, 4, u32::MAX), []);
    assert_eq!(changes(&store.map, u64::MAX, u32::MAX), []);
}

#[test]
fn a_change_far_back_is_found_in_a_long_history() {
    let mut store = Replica::default();
    for number in 0..10_000 {
        store.set(&number.to_string(), "");
    }
    store.apply(Command::Compact { revision: 3_000 });
    for first in [3_000, 3_001, 4_097, 9_999, 10_001] {
        let found: Vec<u64> =
            (store.map.changes_from(ChangeAt { revision: first, place: 0 })).map(Record::revision).collect();
        assert!(found.iter().copied().eq(first..=10_001), "from {first}: {:?}", &found[..found.len().min(3)]);
    }
}

#[test]
fn the_place_after_the_last_of_a_revision_is_in_the_next() {
    let at = |revision, place| ChangeAt { revision, place };
    assert_eq!(at(3, 0).next(), at(3, 1));
    assert_eq!(at(3, u32::MAX).next(), at(4, 0));
}

#[test]
fn a_session_with_a_full_window_of_answers_outlives_a_clone() {
    let mut store = Replica::default();
    let session = store.open();
    for sequence in 1..=store.map.session_window() {
        store.send(session, sequence, 1, "v");
    }
    let (before, digest) = (store.map.clone(), store.map.digest());
    store.send(session, 1025, 1025, "w");
    assert_eq!(before.digest(), digest);
    assert_ne!(before, store.map);
    assert_eq!(store.send(session, 1024, 1, "v"), Answer::OutOfWindow { lowest: 1025 });
}

#[test]
#[should_panic(expected = "was applied before")]
fn applying_an_entry_of_a_session_twice_is_our_own_bug() {
    let mut map = Map::new();
    map.apply(1, &Command::OpenSession);
    map.apply(2, &set("k", "v").of(1, 1, 1));
    map.apply(2, &set("k", "v").of(1, 1, 1));
}
