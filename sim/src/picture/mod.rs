//! A run as one self-contained page of HTML: lanes of nodes, bands of faults, bars of operations.
//!
//! The page is a template with a script, and the run's data as JSON. It loads nothing, so it can be attached to a
//! message and opened years later. Pure.

use serde::Serialize;

use crate::record::report::Report;
use crate::record::timeline::Timeline;

const TEMPLATE: &str = include_str!("page.html");

#[derive(Serialize)]
struct Data<'a> {
    scenario: &'a str,
    seed: u64,
    word: &'a str,
    meaning: &'a str,
    world: &'a str,
    command: &'a str,
    faults: u64,
    timeline: &'a Timeline,
}

/// The page of a run; `command` plays it again.
pub fn page(report: &Report, timeline: &Timeline, command: &str) -> String {
    let data = Data {
        scenario: &report.scenario,
        seed: report.seed,
        word: report.verdict.word(),
        meaning: report.verdict.meaning(),
        world: &report.world,
        command,
        faults: report.faults.values().sum(),
        timeline,
    };
    let json = serde_json::to_string(&data).expect("a timeline is plain data");
    // Whatever a key or a message contains, it cannot close the script element.
    let json = json.replace('<', "\\u003c");
    let title = format!("mökv: {} seed {}", report.scenario, report.seed);
    TEMPLATE.replacen("@TITLE@", &title, 1).replacen("@DATA@", &json, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::timeline::Mark;

    #[test]
    fn the_page_stands_alone_and_its_data_cannot_break_out() {
        let report = Report::crashed("chaos", 7, "boom".into(), vec![]);
        let mark = Mark { at: 5, words: "</script><b>boom".into() };
        let timeline = Timeline::new(9, vec!["n1".into()], vec![], &[], vec![mark]);
        let page = page(&report, &timeline, "MOKV_SEED=7 cargo test");
        assert!(page.contains("\\u003c/script>\\u003cb>boom") && page.contains("chaos seed 7"));
        assert_eq!(page.matches("</script>").count(), TEMPLATE.matches("</script>").count());
        for outside in ["src=", "href=", "@import", "fetch(", "url(http"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
