//! Versions and changes: an answer has exactly what was changed from its first revision to its last, each change once, in
//! order and in its place, and no page cuts a transaction apart. Nothing lies below the floor, the earliest revision that can
//! be read, and only what lies there is refused as compacted.
//!
//! The applied log has all changes, and the floor after each entry. A state that has the answer's last revision has at least
//! the floor of the entry that made it; and what a linearizable read finds is not older than what any node had applied when
//! the read was sent. Where a client asks for all that there is, it is not told which floor that began at: any will do that
//! was there in time.

use super::{Finding, Findings};
use crate::evidence::applied_log::{AppliedLog, KeyChange};
use crate::evidence::history::{Answer, Call, Nanos, Operation, Outcome, Span};

const NAME: &str = "versions and changes are those that were made";
const REFUSED: &str = "only what is compacted is refused";

/// Checks all reads of versions and changes, and all reads that were refused as compacted.
pub fn check(operations: &[Operation], applied_log: &AppliedLog) -> Findings {
    let made = Made { applied_log, changes: applied_log.changes().collect() };
    let finding = |operation: &Operation| {
        let (name, complaint) = match (&operation.outcome, operation.call) {
            (
                Outcome::Ok(Answer::Changed { revision, pages }),
                Call::Versions(span) | Call::Changes(span),
            ) => (NAME, made.differs(operation, span, *revision, pages)?),
            (Outcome::Ok(Answer::Compacted), _) => (REFUSED, made.could_be_read(operation)?),
            _ => return None,
        };
        Some(Finding::violation(name, format!("{complaint}\n    {operation}")))
    };
    operations.iter().filter_map(finding).collect()
}

/// What was made, as the log says.
struct Made<'a> {
    applied_log: &'a AppliedLog,
    /// With their log indexes.
    changes: Vec<(u64, &'a KeyChange)>,
}

impl Made<'_> {
    fn differs(
        &self,
        operation: &Operation,
        span: Span,
        revision: u64,
        pages: &[Vec<KeyChange>],
    ) -> Option<String> {
        let floor = self.floor_of(revision);
        let Some(from) = span.from else {
            let later =
                self.floors_by(operation.returned).filter(|later| (floor + 1..=revision).contains(later));
            let from_there = |from| differs(&self.expected(operation, from, revision), pages, span.limit);
            let all: Vec<String> =
                std::iter::once(floor).chain(later).map(from_there).collect::<Option<_>>()?;
            return all.into_iter().next();
        };
        let sent = operation.invoked.checked_sub(1).filter(|_| !span.stale && span.to.is_none());
        let floor = sent.and_then(|sent| self.floors_by(Some(sent)).last()).unwrap_or(1).max(floor);
        if from < floor {
            return Some(format!(
                "revision {from} was answered, and the earliest that could be read was {floor}"
            ));
        }
        differs(&self.expected(operation, from, revision), pages, span.limit)
    }

    /// The floor when the store came to this revision.
    fn floor_of(&self, revision: u64) -> u64 {
        let made = self.before(revision + 1).last();
        made.map_or(1, |(index, _)| self.applied_log.floor_at(*index))
    }

    /// The floors that were there by this time, in ascending order; `None`: by now.
    fn floors_by(&self, time: Option<Nanos>) -> impl Iterator<Item = u64> {
        self.applied_log.floors_by(time.unwrap_or(Nanos::MAX))
    }

    fn before(&self, revision: u64) -> &[(u64, &KeyChange)] {
        &self.changes[..self.changes.partition_point(|(_, change)| change.revision < revision)]
    }

    /// What an operation finds that asks for these revisions.
    fn expected(&self, operation: &Operation, from: u64, to: u64) -> Vec<&KeyChange> {
        let shows_first = matches!(operation.call, Call::Versions(_));
        let is_asked_for = |change: &&KeyChange| match shows_first {
            true => change.key == operation.key,
            false => change.key.starts_with(&operation.key),
        };
        let (earlier, all) = (self.before(from), self.before(to + 1));
        let within = all.iter().skip(earlier.len()).map(|(_, change)| *change);
        let within: Vec<&KeyChange> = within.filter(is_asked_for).collect();
        // The version that the first revision shows may be older; a deletion is none.
        let mut earlier = earlier.iter().rev().map(|(_, change)| *change);
        let is_replaced = within.first().is_some_and(|next| next.revision == from);
        let shown_first = if shows_first && !is_replaced { earlier.find(is_asked_for) } else { None };
        shown_first.filter(|first| first.new.is_some()).into_iter().chain(within).collect()
    }

    fn could_be_read(&self, operation: &Operation) -> Option<String> {
        let asked = operation.call.from_revision().unwrap_or(1);
        let floor = self.floors_by(operation.returned).last().unwrap_or(1);
        (floor <= asked).then(|| format!("revision {asked} was refused, and {floor} could be read"))
    }
}

/// How pages differ from what was made.
fn differs(made: &[&KeyChange], pages: &[Vec<KeyChange>], limit: Option<u64>) -> Option<String> {
    let limit = limit.map_or(usize::MAX, |limit| limit as usize);
    let shown: Vec<&KeyChange> = pages.iter().flatten().collect();
    if let Some((shown, made)) = shown.iter().zip(made).find(|(shown, made)| shown != made) {
        return Some(format!("it has {shown:?} where {made:?} was made"));
    }
    let has_rest = pages.last().is_some_and(|page| page.len() >= limit);
    if shown.len() > made.len() || (shown.len() < made.len() && !has_rest) {
        return Some(format!("it has {} changes, and {} were made", shown.len(), made.len()));
    }
    let mut end = 0;
    for page in pages {
        end += page.len();
        let Some(last) = page.last().filter(|_| page.len() >= limit) else { continue };
        if made.get(end).is_some_and(|next| next.revision == last.revision) {
            return Some(format!("a page ends within revision {}", last.revision));
        }
        if page.iter().filter(|change| change.revision < last.revision).count() >= limit {
            return Some(format!("a page has revision {} beyond its limit", last.revision));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::{on, operation};
    use crate::evidence::applied_log::Applied;
    use crate::evidence::history::KeyState;

    /// Revision 2 writes a and b, 3 writes a again, 4 deletes b, 5 writes a, c and b. The floor is raised to 3 before revision
    /// 5 is made, and to 4 after it. The log's index 1 is applied at time 10, and so on.
    fn log() -> AppliedLog {
        let state = |value, create_revision, mod_revision, version| {
            Some(KeyState { value, create_revision, mod_revision, version })
        };
        let entries = [
            (2, 1, vec![("a", state(1, 2, 2, 1)), ("b", state(2, 2, 2, 1))]),
            (3, 1, vec![("a", state(3, 2, 3, 2))]),
            (4, 1, vec![("b", None)]),
            (4, 3, vec![]),
            (5, 3, vec![("a", state(4, 2, 5, 3)), ("c", state(5, 5, 5, 1)), ("b", state(6, 5, 5, 1))]),
            (5, 4, vec![]),
        ];
        let mut log = AppliedLog::default();
        for (index, (revision, floor, changes)) in (1..).zip(entries) {
            let change = |(place, (key, new)): (u32, (&str, _))| KeyChange {
                revision,
                place,
                key: key.to_owned(),
                new,
            };
            let changes = (0..).zip(changes).map(change).collect();
            log.applied("n1", index, Applied { term: 1, payload: index, digest: 0, changes });
            log.readable_from(index, floor, index * 10);
        }
        log
    }

    /// The changes with these numbers, of all.
    fn made(numbers: &[usize]) -> Vec<KeyChange> {
        let log = log();
        let changes: Vec<&KeyChange> = log.changes().map(|(_, change)| change).collect();
        numbers.iter().map(|number| changes[*number].clone()).collect()
    }

    // Numbers of changes.
    const A2: usize = 0;
    const B2: usize = 1;
    const A3: usize = 2;
    const B4: usize = 3;
    const A5: usize = 4;
    const C5: usize = 5;
    const B5: usize = 6;

    fn from(revision: u64) -> Span {
        Span { from: Some(revision), to: None, limit: None, stale: false }
    }

    fn all() -> Span {
        Span { from: None, ..from(1) }
    }

    fn in_pages(limit: u64) -> Span {
        Span { limit: Some(limit), ..from(3) }
    }

    /// A read between the last change and the last compaction.
    fn read(key: &str, call: Call, pages: Vec<Vec<KeyChange>>) -> Operation {
        let revision = call.at_revision().unwrap_or(5);
        on(key, operation(52, 58, call, Outcome::Ok(Answer::Changed { revision, pages })))
    }

    fn said(operation: Operation) -> String {
        check(&[operation], &log()).first().map_or_else(String::new, ToString::to_string)
    }

    fn of_changes(span: Span, pages: &[&[usize]]) -> String {
        said(read("", Call::Changes(span), pages.iter().map(|page| made(page)).collect()))
    }

    fn of_versions(key: &str, span: Span, found: &[usize]) -> String {
        said(read(key, Call::Versions(span), vec![made(found)]))
    }

    #[test]
    fn what_was_made_is_fine_whole_or_in_pages() {
        for first in [from(3), all()] {
            assert_eq!(of_changes(first, &[&[A3, B4, A5, C5, B5]]), "");
        }
        assert_eq!(of_changes(from(6), &[&[]]), "");
        assert_eq!(of_changes(in_pages(1), &[&[A3], &[B4], &[A5, C5, B5], &[]]), "");
        assert_eq!(of_changes(in_pages(2), &[&[A3, B4], &[A5, C5, B5]]), "");
        assert_eq!(of_changes(in_pages(4), &[&[A3, B4, A5, C5, B5]]), "");
        assert_eq!(of_changes(in_pages(1), &[&[A3], &[B4]]), "", "the client wants no more");
        assert_eq!(of_changes(Span { to: Some(4), ..from(3) }, &[&[A3, B4]]), "");
        assert_eq!(said(read("c", Call::Changes(from(3)), vec![made(&[C5])])), "");
    }

    #[test]
    fn a_key_has_the_version_that_the_first_revision_shows_and_all_later_ones() {
        for first in [from(3), all()] {
            assert_eq!(of_versions("b", first, &[B2, B4, B5]), "");
        }
        assert_eq!(of_versions("b", from(4), &[B4, B5]), "", "the deletion is of revision 4");
        assert_eq!(of_versions("b", from(5), &[B5]), "");
        assert_eq!(of_versions("a", from(4), &[A3, A5]), "");
        assert_eq!(of_versions("a", in_pages(1), &[A3]), "");
        assert!(of_versions("b", from(5), &[B4, B5]).contains("where"), "a deletion from before");
        assert!(of_versions("a", from(3), &[A2, A3, A5]).contains("where"), "a version that was replaced");
        assert!(of_versions("a", all(), &[A2, A3, A5]).contains("where"), "one from below the floor");
        assert!(of_versions("b", from(3), &[B4, B5]).contains("where"), "the first one is missing");
    }

    #[test]
    fn every_way_to_differ_is_noticed() {
        let whole = |numbers: &[usize]| of_changes(from(3), &[numbers]);
        assert!(whole(&[A3, A5, C5, B5]).contains("where"), "one is missing");
        assert!(whole(&[A3, B4, A5, C5]).contains("4 changes, and 5"), "the last one is missing");
        assert!(whole(&[A3, B4, B4, A5, C5, B5]).contains("where"), "one is there twice");
        assert!(whole(&[A3, B4, A5, C5, B5, B5]).contains("6 changes, and 5"), "the last one is there twice");
        assert!(whole(&[A3, B4, C5, A5, B5]).contains("where"), "two have changed places");
        assert!(of_changes(all(), &[&[A2, B2, A3, B4, A5, C5, B5]]).contains("where"));
        let with = |change: fn(&mut KeyChange)| {
            let mut page = made(&[A3, B4, A5, C5, B5]);
            change(&mut page[3]);
            said(read("", Call::Changes(from(3)), vec![page]))
        };
        assert_eq!(with(|_| {}), "");
        assert!(with(|change| change.place += 1).contains("where"));
        assert!(with(|change| change.new = None).contains("where"));
        assert!(with(|change| change.new.as_mut().unwrap().version += 1).contains("where"));
        assert!(with(|change| change.new.as_mut().unwrap().value += 1).contains("where"));
    }

    #[test]
    fn a_page_ends_with_the_revision_that_fills_it() {
        let apart = of_changes(in_pages(1), &[&[A3], &[B4], &[A5], &[C5], &[B5]]);
        assert!(apart.contains("within revision 5"), "{apart}");
        let apart = of_changes(in_pages(3), &[&[A3, B4, A5]]);
        assert!(apart.contains("within revision 5"), "also if the client wants no more: {apart}");
        let beyond = of_changes(in_pages(2), &[&[A3, B4, A5, C5, B5]]);
        assert!(beyond.contains("revision 5 beyond"), "{beyond}");
    }

    #[test]
    fn nothing_from_below_the_floor_is_answered() {
        let before: &[usize] = &[A2, B2, A3, B4];
        assert!(of_changes(from(2), &[&[A2, B2, A3, B4, A5, C5, B5]]).contains("could be read was 3"));
        let up_to_4 = Span { to: Some(4), ..from(2) };
        assert_eq!(of_changes(up_to_4, &[before]), "", "a state of revision 4 may not have raised it yet");
        let later = |span: Span, numbers: &[usize]| {
            let read = read("", Call::Changes(span), vec![made(numbers)]);
            said(Operation { invoked: 61, returned: Some(70), ..read })
        };
        let since_3: &[usize] = &[A3, B4, A5, C5, B5];
        assert!(later(from(3), since_3).contains("could be read was 4"));
        assert_eq!(later(Span { stale: true, ..from(3) }, since_3), "");
        assert_eq!(later(from(4), &since_3[1..]), "");
        assert_eq!(later(all(), &since_3[1..]), "", "from the later floor");
    }

    #[test]
    fn only_what_lies_below_the_floor_is_refused() {
        let refused =
            |call: Call, returned: Nanos| said(operation(52, returned, call, Outcome::Ok(Answer::Compacted)));
        assert_eq!(refused(Call::Changes(from(2)), 58), "");
        assert_eq!(refused(Call::Versions(all()), 58), "", "a page behind the first");
        for call in [Call::Changes(from(3)), Call::GetAt { revision: 3 }, Call::ListAt { revision: 3 }] {
            assert!(refused(call, 58).contains("revision 3 was refused, and 3 could be read"));
            assert_eq!(refused(call, 60), "", "the floor may have been raised by then");
        }
        assert!(refused(Call::Changes(all()), 39).contains("revision 1 was refused"));
    }
}
