//! The one spelling of what a URL's path or query says (RFC 3986 §6.2.2).

/// Whether every `%` begins an escape, so that a text can be read in one way only.
pub(super) fn has_whole_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    })
}

/// `text` with unreserved characters as they are, and every other escape in upper case.
///
/// Equivalent texts become the same, and others never do: an escape of a reserved character stays one. So this is done
/// once and done again to no effect.
pub(super) fn spelt_plainly(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = if part.is_char_boundary(2) { part.split_at(2) } else { ("", part) };
        match u8::from_str_radix(digits, 16).map(char::from) {
            Ok(unreserved) if unreserved.is_ascii_alphanumeric() || matches!(unreserved, '-' | '.' | '_' | '~') => {
                plain.push(unreserved);
            }
            _ => {
                plain.push('%');
                plain.push_str(&digits.to_ascii_uppercase());
            }
        }
        plain.push_str(rest);
    }
    plain
}
