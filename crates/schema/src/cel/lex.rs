//! Tokens of CEL.

use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Ident(Box<str>),
    Quoted(Box<str>),
    Int(i64),
    /// The magnitude of `i64::MIN`, which only a minus sign makes an integer.
    IntMin,
    Uint(u64),
    Double(f64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
    Punct(&'static str),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Ident(name) | Token::Quoted(name) => f.write_str(name),
            Token::Int(n) => write!(f, "{n}"),
            Token::IntMin => f.write_str("9223372036854775808"),
            Token::Uint(n) => write!(f, "{n}u"),
            Token::Double(n) => write!(f, "{n}"),
            Token::Text(_) | Token::Bytes(_) => f.write_str("a literal"),
            Token::Punct(text) => f.write_str(text),
            Token::End => f.write_str("the end"),
        }
    }
}

/// Longest first, so that `<=` is not `<` and `=`.
const PUNCTUATION: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}",
];

/// All tokens with their byte offsets, [`Token::End`] last.
pub(crate) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, (String, usize)> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let at = lexer.at;
        let token = lexer.token().map_err(|message| (message, at))?;
        let done = token == Token::End;
        tokens.push((token, at));
        if done {
            return Ok(tokens);
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn token(&mut self) -> Result<Token, String> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        if let Some((raw, bytes, prefix)) = literal_prefix(rest) {
            self.at += prefix;
            return self.quoted(raw, bytes);
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            self.at += end;
            return Ok(Token::Ident(rest[..end].into()));
        }
        let digit_follows = rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        if first.is_ascii_digit() || (first == '.' && digit_follows) {
            return self.number();
        }
        if first == '`' {
            let close = rest[1..].find('`').ok_or("an escaped identifier is not closed")?;
            self.at += close + 2;
            return Ok(Token::Quoted(rest[1..=close].into()));
        }
        match PUNCTUATION.iter().find(|text| rest.starts_with(**text)) {
            Some(text) => {
                self.at += text.len();
                Ok(Token::Punct(text))
            }
            None => Err(format!("token recognition error at: '{first}'")),
        }
    }

    fn number(&mut self) -> Result<Token, String> {
        let rest = self.rest();
        if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
            let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            self.at += 2 + end;
            let magnitude = u64::from_str_radix(&hex[..end], 16).map_err(|_| "invalid int literal")?;
            return self.integer(magnitude);
        }
        let bytes = rest.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut end = digits(0);
        let mut float = false;
        if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
            float = true;
            end += 1 + digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = bytes.get(end + 1 + sign..).map_or(0, |_| digits(end + 1 + sign));
            if exponent > 0 {
                float = true;
                end += 1 + sign + exponent;
            }
        }
        self.at += end;
        if float {
            return rest[..end].parse().map(Token::Double).map_err(|_| "invalid double literal".to_owned());
        }
        self.integer(rest[..end].parse().map_err(|_| "invalid int literal")?)
    }

    fn integer(&mut self, magnitude: u64) -> Result<Token, String> {
        if self.rest().starts_with(['u', 'U']) {
            self.at += 1;
            return Ok(Token::Uint(magnitude));
        }
        match i64::try_from(magnitude) {
            Ok(n) => Ok(Token::Int(n)),
            Err(_) if magnitude == i64::MIN.unsigned_abs() => Ok(Token::IntMin),
            Err(_) => Err("invalid int literal".to_owned()),
        }
    }

    fn quoted(&mut self, raw: bool, bytes: bool) -> Result<Token, String> {
        let rest = self.rest();
        let quote = &rest[..1];
        let triple = rest.starts_with(&quote.repeat(3));
        let fence = if triple { quote.repeat(3) } else { quote.to_owned() };
        let body = &rest[fence.len()..];
        let end = find_fence(body, &fence, raw).ok_or("a string literal is not closed")?;
        let content = &body[..end];
        if !triple && content.contains(['\n', '\r']) {
            return Err("a string literal is not closed".to_owned());
        }
        self.at += end + 2 * fence.len();
        let mut out: Vec<u8> = Vec::with_capacity(content.len());
        if raw {
            out.extend_from_slice(content.as_bytes());
        } else {
            unescape(content, bytes, &mut out)?;
        }
        if bytes {
            return Ok(Token::Bytes(out.into()));
        }
        String::from_utf8(out)
            .map(|text| Token::Text(text.into()))
            .map_err(|_| "a string literal is not valid UTF-8".to_owned())
    }
}

/// Whether a string or bytes literal starts here: (raw, bytes, length of the prefix).
fn literal_prefix(rest: &str) -> Option<(bool, bool, usize)> {
    let (mut raw, mut bytes) = (false, false);
    for (at, byte) in rest.bytes().enumerate().take(3) {
        match byte {
            b'\'' | b'"' => return Some((raw, bytes, at)),
            b'r' | b'R' if !raw => raw = true,
            b'b' | b'B' if !bytes => bytes = true,
            _ => return None,
        }
    }
    None
}

/// Where the closing quotes are; a backslash hides a quote unless the literal is raw.
fn find_fence(body: &str, fence: &str, raw: bool) -> Option<usize> {
    let bytes = body.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'\\' && !raw {
            at += 2;
        } else if bytes[at..].starts_with(fence.as_bytes()) {
            return Some(at);
        } else {
            at += 1;
        }
    }
    None
}

fn unescape(content: &str, bytes: bool, out: &mut Vec<u8>) -> Result<(), String> {
    let mut rest = content;
    while let Some(slash) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..slash]);
        rest = &rest[slash + 1..];
        let Some(kind) = rest.chars().next() else { return Err("invalid escape sequence".to_owned()) };
        rest = &rest[kind.len_utf8()..];
        let plain = match kind {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0b,
            '\\' | '?' | '"' | '\'' | '`' => kind as u8,
            _ => {
                let (length, radix) = match kind {
                    'x' | 'X' => (2, 16),
                    'u' => (4, 16),
                    'U' => (8, 16),
                    '0'..='3' => (2, 8),
                    _ => return Err(format!("invalid escape sequence \\{kind}")),
                };
                let digits = rest.get(..length).ok_or("invalid escape sequence")?;
                rest = &rest[length..];
                let mut code = u32::from_str_radix(digits, radix).map_err(|_| "invalid escape sequence")?;
                if radix == 8 {
                    code += kind.to_digit(8).unwrap_or(0) * 64;
                }
                if bytes && !matches!(kind, 'u' | 'U') {
                    out.push(u8::try_from(code).map_err(|_| "invalid escape sequence")?);
                } else {
                    let c = char::from_u32(code).ok_or("invalid code point in escape sequence")?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                continue;
            }
        };
        out.push(plain);
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(())
}
