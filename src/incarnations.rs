//! The incarnations of a data directory, by which a rolled-back or copied directory is detected.
//!
//! Every start on a data directory is an incarnation. It has a number, the boot counter, and an id, drawn at random;
//! both are durable before they are sent to any node. A directory that is rolled back or copied reuses boot counters
//! with other ids. However often it is started, its history differs from the one that peers have recorded: that is how
//! they distinguish it from the directory that they know.

/// How many earlier incarnations a directory stores and sends.
pub const REMEMBERED: usize = 64;

/// One start on a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    /// Number of starts, including this one.
    pub boot: u64,
    /// Drawn at random at this start.
    pub id: u64,
}

/// What is recorded of another directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Incarnations {
    /// The highest boot counter that any node reported.
    pub reported: u64,
    /// The latest incarnation that presented itself.
    pub met: Option<Incarnation>,
}

/// Why an incarnation does not continue the recorded history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// There was a later incarnation, with this boot counter.
    Outlived(u64),
    /// At this boot counter its history has another incarnation than the one met.
    Forked(u64),
    /// Another incarnation with the same boot counter was met: at least one of the two directories is a copy.
    Twin,
}

impl Incarnations {
    /// Known from reports only, with this boot counter.
    pub fn from_report(boot: u64) -> Incarnations {
        Incarnations { reported: boot, met: None }
    }

    /// Records that a node reported this boot counter. Returns `true` if it is higher than the one recorded.
    pub fn record_report(&mut self, boot: u64) -> bool {
        let is_news = self.reported < boot;
        self.reported = self.reported.max(boot);
        is_news
    }

    /// Records an incarnation that presents itself. `past` holds the ids of the incarnations before it, the latest
    /// first, as far as the directory has stored them. Returns `true` if the record changed.
    ///
    /// # Errors
    /// If it does not continue the recorded history.
    pub fn meet(&mut self, incarnation: Incarnation, past: &[u64]) -> Result<bool, Objection> {
        if incarnation.boot < self.reported {
            return Err(Objection::Outlived(self.reported));
        }
        if let Some(met) = self.met {
            let then = match incarnation.boot.saturating_sub(met.boot) {
                0 => Some(incarnation.id),
                ago => usize::try_from(ago - 1).ok().and_then(|at| past.get(at).copied()),
            };
            match then {
                Some(then) if then != met.id && met.boot == incarnation.boot => {
                    return Err(Objection::Twin);
                }
                Some(then) if then != met.id => return Err(Objection::Forked(met.boot)),
                _ => {}
            }
        }
        let now = Incarnations { reported: incarnation.boot, met: Some(incarnation) };
        let is_news = *self != now;
        *self = now;
        Ok(is_news)
    }

    /// Whether the latest reported incarnation has not presented itself yet.
    pub fn is_unmet(&self) -> bool {
        self.met.is_none_or(|met| met.boot < self.reported)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A directory: its current incarnation, and the ids of the earlier ones.
    #[derive(Debug, Clone)]
    struct Directory(Incarnation, Vec<u64>);

    impl Directory {
        fn start(&mut self, id: u64) {
            self.1.insert(0, self.0.id);
            self.1.truncate(REMEMBERED);
            self.0 = Incarnation { boot: self.0.boot + 1, id };
        }

        fn meets(&self, incarnations: &mut Incarnations) -> Result<bool, Objection> {
            incarnations.meet(self.0, &self.1)
        }
    }

    proptest! {
        /// A node that has met an incarnation which a rolled-back directory has lost never admits that directory,
        /// however often it is started; a directory that was not rolled back is always admitted, whichever of its
        /// incarnations were met or only reported.
        #[test]
        fn a_rolled_back_directory_stays_out_and_one_that_goes_on_does_not(
            before in 0_u64..20,
            forgotten in proptest::collection::vec(0..3, 1..20),
            again in 1_u64..40,
        ) {
            let mut directory = Directory(Incarnation { boot: 1, id: 1 }, vec![]);
            let mut incarnations = Incarnations::default();
            (0..before).for_each(|number| directory.start(100 + number));
            directory.meets(&mut incarnations).unwrap();
            let mut rolled_back = directory.clone();
            for (number, known) in (0..).zip(&forgotten) {
                directory.start(200 + number);
                match known {
                    0 => {}
                    1 => drop(incarnations.record_report(directory.0.boot)),
                    _ => drop(directory.meets(&mut incarnations).unwrap()),
                }
            }
            directory.start(300);
            prop_assert_eq!(directory.meets(&mut incarnations), Ok(true));
            prop_assert_eq!(directory.meets(&mut incarnations), Ok(false));
            for number in 0..again {
                rolled_back.start(400 + number);
                prop_assert!(rolled_back.meets(&mut incarnations).is_err());
            }
            directory.start(500);
            prop_assert_eq!(directory.meets(&mut incarnations), Ok(true));
        }
    }

    #[test]
    fn each_objection_has_its_case() {
        let mut incarnations = Incarnations::from_report(5);
        assert_eq!(incarnations.meet(Incarnation { boot: 4, id: 1 }, &[]), Err(Objection::Outlived(5)));
        assert!(incarnations.is_unmet());
        assert_eq!(incarnations.meet(Incarnation { boot: 5, id: 1 }, &[]), Ok(true));
        assert!(!incarnations.is_unmet());
        assert_eq!(incarnations.meet(Incarnation { boot: 5, id: 2 }, &[]), Err(Objection::Twin));
        assert_eq!(incarnations.meet(Incarnation { boot: 7, id: 3 }, &[9, 2]), Err(Objection::Forked(5)));
        assert_eq!(incarnations.meet(Incarnation { boot: 7, id: 3 }, &[9, 1]), Ok(true));
        // Its stored history does not reach back so far: it may be the same directory.
        assert_eq!(incarnations.meet(Incarnation { boot: 99, id: 4 }, &[5]), Ok(true));
    }
}
