//! What must not stand in this repository: paths of one machine, marks of unfinished work, and words that only made
//! sense to whoever wrote them at the time.

use anyhow::Result;

use super::{Context, Report};

/// Beginnings of absolute paths that exist on somebody's machine only.
const MACHINE_PATHS: &[&str] = &["/root/", "/home/", "/Users/", "/work/", "/tmp/bash"];
/// Marks of unfinished work, as whole words.
const MARKS: &[&str] = &["TODO", "FIXME", "XXX", "HACK", "WIP"];
/// Words of a moment, in any case.
const MOMENTS: &[&str] = &[
    "this session",
    "previous session",
    "workplace",
    "the brief",
    "as requested",
    "as instructed",
    "for this issue",
    "issue 1",
    "issue 2",
    "issue 3",
    "language model",
    "ai assistant",
    "ai-generated",
    "co-authored-by",
    "placeholder implementation",
    "for now, we",
];
/// Secrets by their beginnings.
const SECRETS: &[&str] =
    &["-----BEGIN PRIVATE KEY", "-----BEGIN RSA PRIVATE KEY", "-----BEGIN EC PRIVATE KEY"];

pub(super) fn check(context: &Context<'_>, report: &mut Report) -> Result<()> {
    for source in &context.sources.files {
        // This page has the lists; the licence and the lock file are not ours to word; a corpus holds any bytes.
        let exempt = ["xtask/src/check/words.rs", "LICENSE", "Cargo.lock"].contains(&source.path.as_str());
        if exempt || source.path.contains("/corpus/") {
            continue;
        }
        for (at, line) in source.text.lines().enumerate() {
            if let Some(found) = found(line) {
                report.finding(format!("{}:{}: {found}", source.path, at + 1));
            }
        }
    }
    Ok(())
}

fn found(line: &str) -> Option<String> {
    if let Some(path) = MACHINE_PATHS.iter().find(|path| is_absolute(line, path)) {
        return Some(format!("an absolute path of one machine (`{path}...`)"));
    }
    if let Some(mark) = MARKS.iter().find(|mark| has_word(line, mark)) {
        return Some(format!("`{mark}`: finish it or take it out"));
    }
    let lower = line.to_ascii_lowercase();
    if let Some(words) = MOMENTS.iter().find(|words| has_word(&lower, words)) {
        return Some(format!("`{words}`: say it so that it makes sense to anybody, later"));
    }
    let secret = SECRETS.iter().find(|secret| line.contains(**secret));
    secret.map(|secret| format!("a private key (`{secret}`)"))
}

/// Whether `path` stands where an absolute path begins: not after a letter, digit, `.`, `/`, `}` or the like.
fn is_absolute(line: &str, path: &str) -> bool {
    let begins = |at: usize| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| c.is_whitespace() || "\"'`(=<[:".contains(c))
    };
    line.match_indices(path).any(|(at, _)| begins(at) && !line[..at].ends_with("://"))
}

fn has_word(line: &str, word: &str) -> bool {
    let outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    line.match_indices(word).any(|(at, _)| {
        outside(line[..at].chars().next_back()) && outside(line[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_paths_marks_and_moments_are_found_and_ordinary_text_is_not() {
        assert!(found("let path = \"/home/me/weir\";").is_some());
        assert!(found("see /work/notes").is_some());
        assert!(found("// TODO: later").is_some());
        assert!(found("As requested, this does").is_some());
        assert!(found("/healthz/work/x and $HOME/work/weir and https://x/home/").is_none());
        assert!(found("mktemp weir.XXXXXX; TODOS; a session cookie; issue 30").is_none());
    }
}
