//! What a run means: a table for each profile, and whether it held.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::catalogue::{Catalogue, Level, Test};
use super::run::{End, Outcome};
use super::{Channel, Profile};

/// Tests of one level of a profile by their end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// The run ended before them.
    absent: usize,
}

/// See the module's head.
pub(super) struct Verdict {
    rows: Vec<(String, Row)>,
    failed: BTreeSet<String>,
    skipped: BTreeSet<String>,
    absent: BTreeSet<String>,
    /// Tests of features that the channel does not have, which ran all the same.
    beyond: BTreeSet<String>,
    exited_well: bool,
}

impl Verdict {
    /// `chosen` are the tests that alone were to run; empty for all. Those of features that `channel` does not have are
    /// skipped by right.
    pub(super) fn of(
        catalogue: &Catalogue,
        profiles: &[Profile],
        chosen: &[String],
        channel: Channel,
        outcome: &Outcome,
    ) -> Self {
        let mut verdict = Self {
            rows: Vec::new(),
            failed: BTreeSet::new(),
            skipped: BTreeSet::new(),
            absent: BTreeSet::new(),
            beyond: BTreeSet::new(),
            exited_well: outcome.exited_well,
        };
        let is_beyond = |test: &Test| chosen.is_empty() && channel == Channel::Standard && test.experimental;
        let (beyond, tests): (Vec<_>, Vec<_>) = catalogue
            .tests
            .iter()
            .filter(|test| chosen.is_empty() || chosen.contains(&test.name))
            .partition(|test| is_beyond(test));
        let tests = || tests.iter().copied();
        let ran = |test: &&&Test| outcome.ends.get(&test.name).is_some_and(|(end, _)| *end != End::Skipped);
        verdict.beyond.extend(beyond.iter().filter(ran).map(|test| test.name.clone()));
        for profile in profiles {
            for (level, title) in [(Level::Core, "core"), (Level::Extended, "extended")] {
                let counted = tests().filter(|test| test.profiles.get(profile.name()) == Some(&level));
                let names = counted.map(|test| test.name.as_str());
                verdict.row(format!("{} {title}", profile.name()), names, outcome);
            }
        }
        let outside = tests().filter(|test| test.profiles.is_empty()).map(|test| test.name.as_str());
        verdict.row("in no profile".to_owned(), outside, outcome);
        // A test of a profile that was not asked for still runs where its features are claimed.
        verdict.failed.extend(
            outcome.ends.iter().filter(|(_, (end, _))| *end == End::Failed).map(|(name, _)| name.clone()),
        );
        verdict
    }

    fn row<'a>(&mut self, title: String, names: impl Iterator<Item = &'a str>, outcome: &Outcome) {
        let mut row = Row::default();
        for name in names {
            match outcome.ends.get(name) {
                Some((End::Passed, _)) => row.passed += 1,
                Some((End::Failed, _)) => row.failed += 1,
                Some((End::Skipped, _)) => {
                    row.skipped += 1;
                    self.skipped.insert(name.to_owned());
                }
                None => {
                    row.absent += 1;
                    self.absent.insert(name.to_owned());
                }
            }
        }
        if row != Row::default() {
            self.rows.push((title, row));
        }
    }

    pub(super) fn print(&self, outcome: &Outcome) {
        for name in &self.failed {
            println!("\n--- {name}");
            for line in outcome.lines.get(name).into_iter().flatten() {
                println!("{line}");
            }
        }
        if !self.exited_well && self.failed.is_empty() {
            println!("\n--- the suite itself");
            for line in outcome.lines.get("").into_iter().flatten() {
                println!("{line}");
            }
        }
        println!("\n{:<24} {:>7} {:>7} {:>7} {:>7}", "", "passed", "failed", "skipped", "not run");
        for (title, row) in &self.rows {
            println!("{title:<24} {:>7} {:>7} {:>7} {:>7}", row.passed, row.failed, row.skipped, row.absent);
        }
        let listed = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
        if !self.skipped.is_empty() {
            println!("skipped: {}", listed(&self.skipped));
        }
        if !self.failed.is_empty() {
            println!("failed: {}", listed(&self.failed));
        }
    }

    /// An error where the run did not hold.
    pub(super) fn judge(&self, strict: bool) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("{} tests failed", self.failed.len());
        }
        if !self.absent.is_empty() || !self.exited_well {
            bail!("the suite ended early: {} tests did not run", self.absent.len());
        }
        if !self.beyond.is_empty() {
            bail!("claimed although the channel has no such feature: {:?}", self.beyond);
        }
        if strict && !self.skipped.is_empty() {
            bail!("{} tests were skipped, and --strict counts that as a failure", self.skipped.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::catalogue::tests::small;
    use super::*;

    fn outcome(ends: &[(&str, End)]) -> Outcome {
        let ends = ends.iter().map(|(name, end)| ((*name).to_owned(), (*end, Duration::ZERO)));
        Outcome { ends: ends.collect(), exited_well: true, ..Outcome::default() }
    }

    fn judged(ends: &[(&str, End)], chosen: &[&str], strict: bool) -> Result<()> {
        let chosen: Vec<_> = chosen.iter().map(|name| (*name).to_owned()).collect();
        Verdict::of(&small(), &[Profile::Http], &chosen, Channel::Experimental, &outcome(ends)).judge(strict)
    }

    #[test]
    fn every_test_is_counted_where_its_profile_counts_it() {
        let outcome = outcome(&[("A", End::Passed), ("B", End::Skipped), ("N", End::Failed)]);
        let verdict =
            Verdict::of(&small(), &[Profile::Http, Profile::Tcp], &[], Channel::Experimental, &outcome);
        let titles: Vec<_> = verdict.rows.iter().map(|(title, _)| title.as_str()).collect();
        assert_eq!(
            titles,
            ["GATEWAY-HTTP core", "GATEWAY-HTTP extended", "GATEWAY-TCP extended", "in no profile"]
        );
        assert_eq!(verdict.rows[1].1, Row { skipped: 1, absent: 1, ..Row::default() });
        assert_eq!(verdict.rows[3].1, Row { failed: 1, ..Row::default() });
    }

    #[test]
    fn what_the_channel_does_not_have_may_be_skipped_and_may_not_run() {
        let judged = |end: End| {
            let outcome = outcome(&[("A", End::Passed), ("B", End::Passed), ("N", End::Passed), ("E", end)]);
            Verdict::of(&small(), &[Profile::Http], &[], Channel::Standard, &outcome).judge(true)
        };
        assert!(judged(End::Skipped).is_ok());
        assert!(judged(End::Passed).is_err(), "its feature is claimed");
    }

    #[test]
    fn a_run_holds_only_when_all_that_had_to_run_did_and_passed() {
        let passed = [("A", End::Passed), ("E", End::Passed), ("N", End::Passed), ("B", End::Passed)];
        assert!(judged(&passed, &[], true).is_ok());
        assert!(judged(&passed[..3], &[], false).is_err(), "one did not run");
        assert!(judged(&passed[..1], &["A"], false).is_ok(), "it was not to run");
        let skipped = [("A", End::Passed), ("B", End::Skipped), ("E", End::Passed), ("N", End::Passed)];
        assert!(judged(&skipped, &[], false).is_ok() && judged(&skipped, &[], true).is_err());
        let failed = [("A", End::Failed), ("B", End::Passed), ("E", End::Passed), ("N", End::Passed)];
        assert!(judged(&failed, &[], false).is_err());
        let mut broken = outcome(&passed);
        broken.exited_well = false;
        assert!(
            Verdict::of(&small(), &[Profile::Http], &[], Channel::Experimental, &broken)
                .judge(false)
                .is_err()
        );
    }
}
