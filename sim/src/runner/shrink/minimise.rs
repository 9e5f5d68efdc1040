//! Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002): the smallest
//! part of a list that still fails, in the sense that it passes if any one more element is left out. Pure.

/// Leaves out as many items as possible while `fails` returns `true` for the rest. `fails` is called many times, but
/// never for the whole list, which is known to fail.
pub fn minimise<T: Clone>(items: Vec<T>, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut kept = items;
    let mut parts = 2;
    if !kept.is_empty() && fails(&[]) {
        return Vec::new();
    }
    while kept.len() > 1 {
        let size = kept.len().div_ceil(parts);
        let mut smaller = None;
        for start in (0..kept.len()).step_by(size) {
            let end = (start + size).min(kept.len());
            let rest: Vec<T> = kept[..start].iter().chain(&kept[end..]).cloned().collect();
            if !rest.is_empty() && fails(&rest) {
                smaller = Some(rest);
                break;
            }
        }
        match smaller {
            Some(rest) => {
                kept = rest;
                parts = (parts - 1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(kept.len()),
        }
    }
    kept
}

/// The smallest number in `1..=most` for which `fails` returns `true`, by bisection; `most` is known to fail. If
/// `fails` is not monotonic, the result is a number that fails while the next smaller one does not.
pub fn least(most: u64, mut fails: impl FnMut(u64) -> bool) -> u64 {
    let (mut passes, mut failing) = (0, most);
    while failing - passes > 1 {
        let middle = passes + (failing - passes) / 2;
        if fails(middle) {
            failing = middle;
        } else {
            passes = middle;
        }
    }
    failing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_failure_needs_is_left() {
        let mut asked = 0;
        let needed = [3, 17, 40];
        let left = minimise((1..=60).collect(), |items: &[u32]| {
            asked += 1;
            needed.iter().all(|item| items.contains(item))
        });
        assert_eq!(left, needed);
        assert!(asked < 120, "{asked}");
        assert_eq!(minimise(vec![1, 2, 3], |_| true), Vec::<u32>::new());
        assert_eq!(minimise(vec![1, 2, 3], |items| items.len() == 3), [1, 2, 3]);
    }

    #[test]
    fn the_least_number_is_found_by_halves() {
        assert_eq!(least(1_000, |number| number >= 37), 37);
        assert_eq!(least(1, |_| unreachable!("one is the least")), 1);
        assert_eq!(least(5, |_| false), 5);
    }
}
