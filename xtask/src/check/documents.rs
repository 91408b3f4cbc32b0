//! The documents a newcomer needs are there, and their links lead somewhere: to a file of this repository and, after a
//! `#`, to a heading in it. Links to other hosts are not followed.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use super::sources::Source;
use super::{Context, Report};

const REQUIRED: &[&str] = &["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "deny.toml"];

pub(super) fn check(context: &Context<'_>, report: &mut Report) -> Result<()> {
    for path in REQUIRED {
        if !context.root.join(path).is_file() {
            report.finding(format!("{path} is missing"));
        }
    }
    let pages: Vec<&Source> =
        context.sources.files.iter().filter(|file| file.path.ends_with(".md")).collect();
    for page in &pages {
        for (number, link) in links(&page.text) {
            if let Some(wrong) = wrong_link(context.root, &pages, page, &link) {
                report.finding(format!("{}:{number}: {wrong}", page.path));
            }
        }
    }
    for source in context.sources.files.iter().filter(|source| !source.path.starts_with("xtask/src/check/")) {
        for (at, line) in source.text.lines().enumerate() {
            for name in named_pages(line).filter(|name| !is_ours(&pages, name)) {
                let path = &source.path;
                report.finding(format!(
                    "{path}:{}: names `{name}`, a page that is not in this repository",
                    at + 1
                ));
            }
        }
    }
    Ok(())
}

/// Pages that a line names: a word that ends in `.md`, or a page of capitals with a section of it (`NOTES section 3`).
fn named_pages(line: &str) -> impl Iterator<Item = &str> {
    let is_outside = |c: char| !c.is_alphanumeric() && !"._-/*:".contains(c);
    let words: Vec<&str> = line.split(is_outside).filter(|word| !word.is_empty()).collect();
    let by_section =
        words.windows(2).filter(|pair| ["section", "sections"].contains(&pair[1])).map(|pair| pair[0]);
    let is_page = |word: &&str| word.len() > 3 && word.chars().all(|c| c.is_ascii_uppercase());
    let by_section: Vec<&str> = by_section.filter(is_page).collect();
    let by_ending = words.into_iter().map(|word| word.trim_end_matches(['.', ':'])).filter(|word| {
        word.len() > 3 && word.ends_with(".md") && !word.contains("//") && !word.contains('*')
    });
    by_ending.chain(by_section)
}

fn is_ours(pages: &[&Source], name: &str) -> bool {
    let name = name.trim_start_matches("./").trim_start_matches("../");
    pages.iter().any(|page| {
        page.path == name || page.path.ends_with(&format!("/{name}")) || page.path == format!("{name}.md")
    })
}

fn wrong_link(root: &Path, pages: &[&Source], page: &Source, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { PathBuf::from(&page.path) } else { beside(&page.path, path) };
    if !root.join(&target).exists() {
        return Some(format!("the link `{link}` leads nowhere"));
    }
    if heading.is_empty() {
        return None;
    }
    let target = pages.iter().find(|other| Path::new(&other.path) == target)?;
    let known = headings(&target.text).contains(heading);
    (!known).then(|| format!("the link `{link}` names a heading that {} does not have", target.path))
}

/// `path` as seen from the directory of `page`, without `.` and `..`.
fn beside(page: &str, path: &str) -> PathBuf {
    let mut full = PathBuf::new();
    let directory = Path::new(page).parent().unwrap_or(Path::new(""));
    for part in directory.join(path).components() {
        match part {
            Component::ParentDir => {
                full.pop();
            }
            Component::Normal(part) => full.push(part),
            _ => {}
        }
    }
    full
}

/// The targets of `[text](target)` outside code, with their line numbers.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        let mut rest = line.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find([')', ' ']) else { break };
            links.push((number, rest[..end].to_owned()));
        }
    }
    links
}

/// The names by which a page's headings are linked to.
fn headings(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, line) in prose_with_code_spans(text) {
        let title = line.trim_start_matches('#');
        if line.starts_with('#') && title.starts_with(' ') {
            let letters = title.trim().to_lowercase();
            let kept = letters.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let again = (1..).map(|n| format!("{name}-{n}"));
            let free = std::iter::once(name.clone()).chain(again).find(|name| !names.contains(name));
            names.extend(free);
        }
    }
    names
}

/// Lines outside fenced code, with their numbers, code spans taken out.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> {
    prose_with_code_spans(text).map(|(number, line)| (number, line.split('`').step_by(2).collect::<String>()))
}

fn prose_with_code_spans(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((at + 1, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code_and_headings_get_their_names() {
        let text =
            "# One `two` three\n[a](b.md#c) `[x](y)`\n```\n[no](z)\n```\n[d](e \"t\")\n## One two three\n";
        assert_eq!(links(text), [(2, "b.md#c".to_owned()), (6, "e".to_owned())]);
        let names = headings(text);
        assert!(names.contains("one-two-three") && names.contains("one-two-three-1"), "{names:?}");
    }

    #[test]
    fn pages_are_named_by_their_ending_or_by_a_section() {
        let named = |line| named_pages(line).collect::<Vec<_>>();
        assert_eq!(
            named("see `docs/adr/x.md`, and PLAN section 4; RFC 9112 section 3"),
            ["docs/adr/x.md", "PLAN"]
        );
        assert_eq!(named("https://example.org/README.md and *.md"), [""; 0]);
    }

    #[test]
    fn a_path_is_seen_from_its_page() {
        assert_eq!(beside("docs/adr/a.md", "../../README.md"), PathBuf::from("README.md"));
        assert_eq!(beside("README.md", "./docs/"), PathBuf::from("docs"));
    }
}
