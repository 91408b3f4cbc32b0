//! The files of the repository as git knows them: tracked ones and new ones that are not ignored.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// One text file.
pub(super) struct Source {
    /// Relative to the root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Made by a task of ours and held equal by a check, as its head says.
    pub(super) fn is_generated(&self) -> bool {
        self.text.lines().take(5).any(|line| line.contains("@generated"))
    }

    /// The lines of a Rust file before its first `#[cfg(test)]` module, numbered from 1, without line comments.
    pub(super) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.contains("/tests/") || self.path.ends_with("/tests.rs");
        let until = |line: &&str| !line.trim_start().starts_with("#[cfg(test)]");
        let lines = self.text.lines().take_while(until).map(without_comment).enumerate();
        lines.filter(move |_| !is_test).map(|(at, line)| (at + 1, line))
    }
}

/// The line up to a `//` that does not stand inside a string (an even number of quotation marks before it).
fn without_comment(line: &str) -> &str {
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| at + from) {
        if line[..at].matches('"').count().is_multiple_of(2) {
            return &line[..at];
        }
        from = at + 2;
    }
    line
}

pub(super) struct Sources {
    pub(super) files: Vec<Source>,
}

impl Sources {
    pub(super) fn read(root: &Path) -> Result<Sources> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("git did not start")?;
        ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
        let mut files = Vec::new();
        for path in String::from_utf8(output.stdout)?.split('\0').filter(|path| !path.is_empty()) {
            // Deleted but not yet committed: not there. Not UTF-8: a corpus entry, no text.
            if let Ok(bytes) = fs::read(root.join(path))
                && let Ok(text) = String::from_utf8(bytes)
            {
                files.push(Source { path: path.to_owned(), text });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Sources { files })
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|file| file.is_rust())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_lines_end_where_the_tests_begin_and_carry_no_comments() {
        let text = "let a = \"//x\"; // y\n// z\n#[cfg(test)]\nmod tests {}\n".to_owned();
        let source = Source { path: "crates/a/src/lib.rs".into(), text };
        let lines: Vec<_> = source.product_lines().collect();
        assert_eq!(lines, [(1, "let a = \"//x\"; "), (2, "")]);
    }
}
