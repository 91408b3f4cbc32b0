//! Regular expressions of schemas and rules: RE2 syntax as Go accepts it, run by the `regex` crate.
//!
//! Both engines match in linear time; what differs is small and translated here: Perl classes and `\b` are ASCII in
//! RE2, brackets and doubled operators inside a class are literal there, and so is a brace that is no repetition.

use regex::{Regex, RegexBuilder};

/// Compiled size of one expression, bytes: enough for repeated classes of Unicode letters, far above any pattern of the
/// Gateway API.
const COMPILED_SIZE_LIMIT_BYTES: usize = 8 << 20;

/// A compiled pattern and the text that it was written as.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub(crate) source: Box<str>,
    regex: Regex,
}

impl Pattern {
    pub(crate) fn compile(source: &str) -> Result<Pattern, String> {
        let regex = RegexBuilder::new(&from_re2(source))
            .size_limit(COMPILED_SIZE_LIMIT_BYTES)
            .dfa_size_limit(COMPILED_SIZE_LIMIT_BYTES)
            .nest_limit(100)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Pattern { source: source.into(), regex })
    }

    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

/// Rewrites RE2 syntax so that the `regex` crate gives it the same meaning.
pub(crate) fn from_re2(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len() + 16);
    let mut at = 0;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += escape(&chars[at..], false, &mut out),
            '[' => at += class(&chars[at..], &mut out),
            '{' if !is_repetition(&chars[at..]) => {
                out.push_str("\\{");
                at += 1;
            }
            c => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

/// Writes one escape sequence; gives how many characters it took.
fn escape(rest: &[char], in_class: bool, out: &mut String) -> usize {
    let Some(next) = rest.get(1) else {
        out.push('\\');
        return 1;
    };
    let (inside, outside) = match next {
        'd' => ("0-9", "[0-9]"),
        'w' => ("0-9A-Za-z_", "[0-9A-Za-z_]"),
        's' => ("\\t\\n\\f\\r ", "[\\t\\n\\f\\r ]"),
        'D' => ("[^0-9]", "[^0-9]"),
        'W' => ("[^0-9A-Za-z_]", "[^0-9A-Za-z_]"),
        'S' => ("[^\\t\\n\\f\\r ]", "[^\\t\\n\\f\\r ]"),
        'b' if !in_class => ("", "(?-u:\\b)"),
        '<' => ("<", "<"),
        '>' => (">", ">"),
        'Q' => return literal(rest, out),
        other => {
            out.push('\\');
            out.push(*other);
            return 2;
        }
    };
    out.push_str(if in_class { inside } else { outside });
    2
}

/// `\Q...\E`: everything between is literal.
fn literal(rest: &[char], out: &mut String) -> usize {
    let mut at = 2;
    while at < rest.len() {
        if rest[at] == '\\' && rest.get(at + 1) == Some(&'E') {
            return at + 2;
        }
        out.push_str(&regex::escape(rest[at].encode_utf8(&mut [0; 4])));
        at += 1;
    }
    at
}

/// Writes a bracketed class; gives how many characters it took.
fn class(rest: &[char], out: &mut String) -> usize {
    let mut at = 1;
    out.push('[');
    if rest.get(at) == Some(&'^') {
        out.push('^');
        at += 1;
    }
    let first = at;
    while at < rest.len() {
        if rest[at] == ']' && at > first {
            out.push(']');
            return at + 1;
        }
        at += member(&rest[at..], out);
        // A dash between two members spans a range; before the closing bracket it is itself.
        if rest.get(at) == Some(&'-') && rest.get(at + 1).is_some_and(|next| *next != ']') {
            out.push('-');
            at += 1;
            at += member(&rest[at..], out);
        }
    }
    at
}

/// Writes one member of a class; gives how many characters it took.
fn member(rest: &[char], out: &mut String) -> usize {
    match rest {
        ['\\', ..] => escape(rest, true, out),
        ['[', ':', ..] if posix(rest).is_some() => {
            let length = posix(rest).unwrap_or(0);
            out.extend(&rest[..length]);
            length
        }
        [c @ ('[' | ']' | '&' | '~' | '-' | '^'), ..] => {
            out.push('\\');
            out.push(*c);
            1
        }
        [c, ..] => {
            out.push(*c);
            1
        }
        [] => 0,
    }
}

/// Length of `[:name:]` at the start of `rest`.
fn posix(rest: &[char]) -> Option<usize> {
    let close = rest.iter().skip(2).take(10).position(|c| *c == ':')? + 2;
    (rest.get(close + 1) == Some(&']')).then_some(close + 2)
}

/// Whether a brace opens `{n}`, `{n,}` or `{n,m}`.
fn is_repetition(rest: &[char]) -> bool {
    let mut at = 1;
    let digits = |at: &mut usize| {
        let from = *at;
        while rest.get(*at).is_some_and(char::is_ascii_digit) {
            *at += 1;
        }
        *at > from
    };
    if !digits(&mut at) {
        return false;
    }
    if rest.get(at) == Some(&',') {
        at += 1;
        digits(&mut at);
    }
    rest.get(at) == Some(&'}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::compile(pattern).unwrap().is_match(text)
    }

    #[test]
    fn perl_classes_are_ascii_as_in_re2() {
        assert!(matches(r"^\d+$", "12"));
        assert!(!matches(r"^\d+$", "\u{0663}"));
        assert!(!matches(r"^\w+$", "\u{e9}"));
        assert!(matches(r"^[\w.]+$", "a_1."));
        assert!(matches(r"^[^\d]$", "\u{e9}"));
        assert!(matches(r"^[\D]$", "x"));
        assert!(!matches(r"^[\S]$", " "));
        assert!(matches(r"\bfoo\b", "a foo b"));
    }

    #[test]
    fn brackets_and_doubled_operators_in_a_class_are_literal() {
        assert!(matches(r"^[[a]+$", "[a"));
        assert!(matches(r"^[a&&b]+$", "a&b"));
        assert!(matches(r"^[]a]+$", "]a"));
        assert!(matches(r"^[a~~]+$", "~a"));
        assert!(matches(r"^[[:alpha:]-]+$", "ab-"));
        assert!(matches(r"^[+--]$", ","));
    }

    #[test]
    fn a_brace_that_repeats_nothing_is_literal() {
        assert!(matches(r"^{.*}$", "{x}"));
        assert!(matches(r"^a{2,3}$", "aaa"));
        assert!(matches(r"^a{2,}$", "aaaa"));
        assert!(matches(r"^a{,2}$", "a{,2}"));
        assert!(matches(r"^\Qa.b[\E$", "a.b["));
    }

    #[test]
    fn a_bad_or_huge_expression_is_an_error() {
        assert!(Pattern::compile("(").is_err());
        assert!(Pattern::compile("(?=a)").is_err());
        assert!(Pattern::compile("((a{1,1000}){1,1000}){1,1000}").is_err());
    }
}
