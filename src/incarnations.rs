//! The lives of a data directory.
//!
//! Every start is one. It has a number, the boot counter, and an incarnation, which is drawn at random; both are durable
//! before anybody hears of them. A directory that is rolled back or copied lives some of them again, and however often it
//! is started, its past is not the one that others have met: by that they tell it from the directory that they know.

/// So many earlier incarnations a directory keeps and tells.
pub const REMEMBERED: usize = 64;

/// One start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    /// How many starts there were, this one included.
    pub boot: u64,
    /// Drawn at this start.
    pub id: u64,
}

/// What is known of another directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Incarnations {
    /// The highest boot counter that anybody told of.
    pub heard: u64,
    /// The latest life that came by itself.
    pub met: Option<Incarnation>,
}

/// Why a life does not go on from what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// There was a later one, with this boot counter.
    Outlived(u64),
    /// In its past, at this boot counter, it is not the one that was met.
    Forked(u64),
    /// The one with this boot counter that was met is another one: at least one of the two is a copy.
    Twin,
}

impl Incarnations {
    /// Only heard of, with this boot counter.
    pub fn heard_of(boot: u64) -> Incarnations {
        Incarnations { heard: boot, met: None }
    }

    /// Hears of a life. Whether that is news.
    pub fn hear_of(&mut self, boot: u64) -> bool {
        let is_news = self.heard < boot;
        self.heard = self.heard.max(boot);
        is_news
    }

    /// Meets a life, with the incarnations of those before it, the latest first, as far as it knows them. Whether that is
    /// news.
    ///
    /// # Errors
    /// If it does not go on from what is known.
    pub fn meet(&mut self, incarnation: Incarnation, past: &[u64]) -> Result<bool, Objection> {
        if incarnation.boot < self.heard {
            return Err(Objection::Outlived(self.heard));
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
        let now = Incarnations { heard: incarnation.boot, met: Some(incarnation) };
        let is_news = *self != now;
        *self = now;
        Ok(is_news)
    }

    /// Whether it was heard of a life that has not come by.
    pub fn is_unmet(&self) -> bool {
        self.met.is_none_or(|met| met.boot < self.heard)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A directory: its life, and its past.
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
        /// Whoever has met a life that a rolled-back directory has forgotten never lets it in, however often that one
        /// starts; and a directory that goes on is always let in, whichever of its lives were met or only heard of.
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
                    1 => drop(incarnations.hear_of(directory.0.boot)),
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
        let mut incarnations = Incarnations::heard_of(5);
        assert_eq!(incarnations.meet(Incarnation { boot: 4, id: 1 }, &[]), Err(Objection::Outlived(5)));
        assert!(incarnations.is_unmet());
        assert_eq!(incarnations.meet(Incarnation { boot: 5, id: 1 }, &[]), Ok(true));
        assert!(!incarnations.is_unmet());
        assert_eq!(incarnations.meet(Incarnation { boot: 5, id: 2 }, &[]), Err(Objection::Twin));
        assert_eq!(incarnations.meet(Incarnation { boot: 7, id: 3 }, &[9, 2]), Err(Objection::Forked(5)));
        assert_eq!(incarnations.meet(Incarnation { boot: 7, id: 3 }, &[9, 1]), Ok(true));
        // Its memory does not reach so far: it may be the same.
        assert_eq!(incarnations.meet(Incarnation { boot: 99, id: 4 }, &[5]), Ok(true));
    }
}
