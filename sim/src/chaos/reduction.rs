//! What a shrunk run leaves out: injections, clients, keys, its last part. Pure.
//!
//! It is passed as a compact text in the environment, `MOKV_REDUCE=without=3,5-9;clients=1;until=12.5s`, so that the
//! command that replays a shrunk failure is complete.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::schedule::Planned;
use crate::world::World;

/// The variable a run reads its reduction from.
pub const VARIABLE: &str = "MOKV_REDUCE";

/// What is left out. The default leaves out nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reduction {
    /// Numbers of the injections that do not happen.
    pub without: BTreeSet<u32>,
    /// No more clients than this.
    pub clients: Option<u32>,
    /// No more keys than this.
    pub keys: Option<u64>,
    /// Faults end this long after they began, however few operations were answered.
    pub until: Option<Duration>,
}

impl Reduction {
    /// Reads the reduction from the environment; without the variable it leaves out nothing.
    ///
    /// # Errors
    /// Returns a description if the variable cannot be parsed.
    pub fn from_environment() -> Result<Reduction, String> {
        match std::env::var(VARIABLE) {
            Ok(text) => text.parse().map_err(|words| format!("{VARIABLE} is '{text}': {words}")),
            Err(_) => Ok(Reduction::default()),
        }
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        *self == Reduction::default()
    }

    /// Applies the bounds on clients, keys and time to a world.
    pub fn shrink(&self, world: &mut World) {
        world.clients = world.clients.min(self.clients.unwrap_or(u32::MAX));
        world.keys = world.keys.min(self.keys.unwrap_or(u64::MAX));
        world.faults_last = world.faults_last.min(self.until.unwrap_or(Duration::MAX));
    }

    /// Whether an injection still happens.
    pub fn keeps(&self, injection: &Planned) -> bool {
        !self.without.contains(&injection.number) && self.until.is_none_or(|until| injection.after < until)
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.without.is_empty() {
            parts.push(format!("without={}", ranges(&self.without)));
        }
        parts.extend(self.clients.map(|clients| format!("clients={clients}")));
        parts.extend(self.keys.map(|keys| format!("keys={keys}")));
        parts.extend(self.until.map(|until| format!("until={}", seconds(until))));
        f.write_str(&parts.join(";"))
    }
}

impl FromStr for Reduction {
    type Err = String;

    fn from_str(text: &str) -> Result<Reduction, String> {
        let mut reduction = Reduction::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (what, value) = part.split_once('=').ok_or(format!("'{part}' is not NAME=VALUE"))?;
            match what {
                "without" => reduction.without = read_ranges(value)?,
                "clients" => reduction.clients = Some(at_least_one(value)?),
                "keys" => reduction.keys = Some(at_least_one(value)?),
                "until" => reduction.until = Some(read_seconds(value)?),
                _ => return Err(format!("'{what}' is none of without, clients, keys, until")),
            }
        }
        Ok(reduction)
    }
}

/// `1-3,7`.
fn ranges(numbers: &BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let one = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(one).collect::<Vec<_>>().join(",")
}

fn read_ranges(text: &str) -> Result<BTreeSet<u32>, String> {
    let mut numbers = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(number::<u32>(first)?..=number::<u32>(last)?);
    }
    Ok(numbers)
}

/// Lossless: `12s`, `12.5s`.
fn seconds(time: Duration) -> String {
    let nanos = format!("{:09}", time.subsec_nanos());
    let fraction = nanos.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{point}{fraction}s", time.as_secs())
}

fn read_seconds(text: &str) -> Result<Duration, String> {
    let bare = text.strip_suffix('s').ok_or(format!("'{text}' is no time such as 12.5s"))?;
    let (whole, fraction) = bare.split_once('.').unwrap_or((bare, ""));
    if fraction.len() > 9 {
        return Err(format!("'{text}' is finer than a nanosecond"));
    }
    Ok(Duration::new(number(whole)?, number(&format!("{fraction:0<9}"))?))
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("'{text}' should be a whole number"))
}

fn at_least_one<T: FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T, String> {
    let number = number(text)?;
    if number < T::from(1) { Err("less than one is nothing to run".into()) } else { Ok(number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::schedule;

    #[test]
    fn what_is_written_is_read_again() {
        let reductions = [
            Reduction::default(),
            Reduction { without: [3, 5, 6, 7, 9].into(), ..Reduction::default() },
            Reduction {
                without: [1].into(),
                clients: Some(1),
                keys: Some(2),
                until: Some(Duration::from_nanos(12_000_000_050)),
            },
            Reduction { until: Some(Duration::from_millis(12_500)), ..Reduction::default() },
        ];
        for reduction in reductions {
            assert_eq!(reduction.to_string().parse(), Ok(reduction.clone()), "{reduction}");
        }
        let text = "without=3,5-9;clients=1;until=12s";
        assert_eq!(text.parse::<Reduction>().unwrap().to_string(), text);
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        for text in ["without", "without=a", "clients=0", "until=12", "until=1.0000000001s", "faults=3"] {
            assert!(text.parse::<Reduction>().is_err(), "{text}");
        }
    }

    #[test]
    fn it_leaves_out_what_it_names_and_nothing_else() {
        let mut world = World::draw(3);
        let all = schedule::draw(&world, 3);
        let reduction: Reduction = "without=2;clients=1;until=20s".parse().unwrap();
        let kept: Vec<_> = all.iter().filter(|injection| reduction.keeps(injection)).collect();
        let until = Duration::from_secs(20);
        let expected = all.iter().filter(|injection| injection.number != 2 && injection.after < until);
        assert!(kept.into_iter().eq(expected));
        reduction.shrink(&mut world);
        assert_eq!((world.clients, world.faults_last), (1, until));
        assert_eq!(world.keys, World::draw(3).keys);
    }
}
