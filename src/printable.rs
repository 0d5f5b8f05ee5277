//! Text of others, made fit to be printed.
//!
//! A marketplace chooses the names, messages and types that an operator reads on a terminal or in a log. A terminal obeys
//! some characters instead of showing them: it moves the cursor, retitles its window, writes from right to left. Whatever
//! is printed passes through here, and such a character is printed as its number.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character does something, or nothing visible, instead of being shown.
pub(crate) const fn is_hidden(c: char) -> bool {
    matches!(
        c,
        // C0, DEL and C1, line ends and tabs among them.
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
        | '\u{ad}' | '\u{61c}' | '\u{180e}'
        // Letters that are blank: grapheme joiner, fillers of Hangul, Khmer's inherent vowels, empty Braille.
        | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}'
        // Zero-width characters and directional marks; line and paragraph separator, embeddings and overrides.
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        // Word joiner, invisible operators, isolates, deprecated format characters.
        | '\u{2060}'..='\u{206f}'
        // Byte order mark, interlinear annotation.
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        // Shorthand and musical format controls, tags.
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Text on one line: a cell of a table, a message, a field of a log line.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    replace(text, is_hidden, |c, printed| match c {
        '\n' => printed.push_str("\\n"),
        '\r' => printed.push_str("\\r"),
        '\t' => printed.push_str("\\t"),
        other => {
            // Writing to a String cannot fail.
            let _ = write!(printed, "{}", other.escape_unicode());
        }
    })
}

/// Text of several lines: an event's body. Line ends and tabs stay.
pub(crate) fn lines(text: &str) -> String {
    let kept = |text: &str| text.split('\t').map(line).collect::<Vec<_>>().join("\t");
    text.split('\n').map(|one| kept(one.strip_suffix('\r').unwrap_or(one))).collect::<Vec<_>>().join("\n")
}

/// A JSON document that means the same. Its own syntax is ASCII, so what is replaced stands in a string.
pub(crate) fn json(document: &str) -> Cow<'_, str> {
    let is_hidden_in_json = |c: char| !matches!(c, '\u{0}'..='\u{1f}') && is_hidden(c);
    replace(document, is_hidden_in_json, |c, printed| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(printed, "\\u{unit:04x}");
        }
    })
}

fn replace(text: &str, wanted: impl Fn(char) -> bool, by: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let Some(first) = text.find(&wanted) else { return Cow::Borrowed(text) };
    let mut printed = String::with_capacity(text.len() + 16);
    printed.push_str(&text[..first]);
    for c in text[first..].chars() {
        if wanted(c) {
            by(c, &mut printed);
        } else {
            printed.push(c);
        }
    }
    Cow::Owned(printed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character that some terminal, or a reader's eye, takes for something else.
    fn hidden() -> impl Iterator<Item = char> {
        let named = "\u{ad}\u{61c}\u{180e}\u{200b}\u{200d}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\
                     \u{206f}\u{feff}\u{fff9}\u{e0001}\u{e007f}\u{34f}\u{115f}\u{1160}\u{2800}\u{3164}\u{ffa0}";
        ('\u{0}'..='\u{10ffff}').filter(|c| c.is_control()).chain(named.chars())
    }

    #[test]
    fn a_character_that_a_terminal_obeys_is_printed_as_its_number() {
        for c in hidden() {
            let text = format!("a{c}b");
            assert!(!line(&text).contains(c), "{}", c.escape_unicode());
            assert_eq!(lines(&text).contains(c), matches!(c, '\n' | '\t'), "{}", c.escape_unicode());
        }
        assert_eq!(line("\u{1b}]0;x\u{7}\u{9b}2J\r\n\t\u{202e}"), "\\u{1b}]0;x\\u{7}\\u{9b}2J\\r\\n\\t\\u{202e}");
        assert_eq!(lines("a\r\nb\tc\rd\u{1b}"), "a\nb\tc\\rd\\u{1b}");
    }

    #[test]
    fn what_people_write_is_printed_as_it_is() {
        for text in ["", "Jane Döe", "株式会社\u{3000}鈴", "नमस्ते", "e\u{301}", "a\u{a0}b", "C:\\new", "שלום", "🙂"]
        {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn json_means_the_same_afterwards() {
        for c in hidden().chain("aä🙂\\\"".chars()) {
            let value = serde_json::json!({ format!("k{c}"): [c, 1] });
            let document = serde_json::to_string_pretty(&value).expect("serializes");
            let printed = json(&document);
            assert!(c.is_ascii() && c != '\u{7f}' || !printed.contains(c) || !is_hidden(c), "{}", c.escape_unicode());
            assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).expect("still JSON"), value);
        }
    }
}
