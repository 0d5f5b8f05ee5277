//! From the bytes of a body to its text.
//!
//! Nothing is refused here: what is no character in the charset of the body becomes U+FFFD, and only there.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// The longest label of a charset that is looked at; the longest one there is has 19 bytes.
const MAX_LABEL_BYTES: usize = 40;
/// So many continuation bytes make UTF-8 what a body in a charset of several bytes is not by accident: four letters with
/// an accent, or two ideographs. Of four random characters in such a charset about one series in a thousand is
/// well-formed UTF-8 like that (measured: 0.05 % in GBK, 0.1 % in Shift JIS), and of longer ones hardly any.
const TELLING_CONTINUATIONS: usize = 4;
/// How far into a body the end of an XML declaration is looked for.
const MAX_DECLARATION_BYTES: usize = 512;

/// The charset that a `Content-Type` names, in lower case: `utf-8` of `application/json; charset="UTF-8"`.
///
/// Only a label that [`Event::read`](super::Event::read) can make something of, so that what is stored beside a
/// body is short and means the same when the body is read again.
#[must_use]
pub fn charset_of(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let label = value.trim().trim_matches(['"', '\'']).trim();
        let is_charset = name.trim().eq_ignore_ascii_case("charset") && label.len() <= MAX_LABEL_BYTES;
        (is_charset && known(label.as_bytes()).is_some()).then(|| label.to_ascii_lowercase())
    })
}

/// The text of a body that came with this `charset`, without a byte-order mark.
///
/// What the bytes themselves show counts first: a byte-order mark, then the zero bytes that UTF-16 and UTF-32 have
/// within the first character of every JSON and XML document (RFC 4627 §3). Then the XML declaration, then `charset`:
/// the first of the two that the bytes do not contradict, since servers name a default charset for bytes that somebody
/// else wrote. Else it is UTF-8. Borrowed wherever the bytes are UTF-8 already.
///
/// What is left of a character at the end of UTF-16 or UTF-32, and a line end in ASCII, is no part of the text: somebody
/// on the way has appended it.
pub(super) fn decode<'b>(bytes: &'b [u8], charset: Option<&str>) -> Cow<'b, str> {
    if let Some((wide, mark)) = Wide::of(bytes) {
        return wide.decode(&bytes[mark..]).into();
    }
    if let Some((encoding, mark)) = Encoding::for_bom(bytes) {
        return decode_in(encoding, &bytes[mark..]);
    }
    match *bytes {
        [0, first, ..] if first != 0 => return decode_in(UTF_16BE, bytes),
        [first, 0, ..] if first != 0 => return decode_in(UTF_16LE, bytes),
        _ => {}
    }
    let utf8 = std::str::from_utf8(bytes).ok();
    let named = [declared(bytes), charset.and_then(|label| known(label.as_bytes()))];
    let encoding = named.into_iter().flatten().find(|encoding| is_possible(encoding, utf8));
    match (encoding, utf8) {
        (Some(encoding), _) if encoding != UTF_8 => decode_in(encoding, bytes),
        (_, Some(text)) => Cow::Borrowed(text),
        (_, None) => decode_in(UTF_8, bytes),
    }
}

fn decode_in<'b>(encoding: &'static Encoding, bytes: &'b [u8]) -> Cow<'b, str> {
    if encoding == UTF_8 {
        // Replaces the same bytes as `encoding_rs`, and is faster where there are many of them.
        String::from_utf8_lossy(bytes)
    } else if encoding == UTF_16LE || encoding == UTF_16BE {
        encoding.decode_without_bom_handling(whole_units(bytes, 2)).0
    } else {
        encoding.decode_without_bom_handling(bytes).0
    }
}

/// The bytes without a line end in ASCII behind them, as far as they are whole units of this size.
fn whole_units(bytes: &[u8], size: usize) -> &[u8] {
    // One in these units has zeroes between its bytes.
    let bytes = bytes.strip_suffix(b"\r\n").unwrap_or(bytes);
    &bytes[..bytes.len() - bytes.len() % size]
}

/// Whether a body can be in `encoding`, `utf8` being its text if it is UTF-8.
fn is_possible(encoding: &'static Encoding, utf8: Option<&str>) -> bool {
    if encoding == UTF_8 {
        utf8.is_some()
    } else if encoding == UTF_16LE || encoding == UTF_16BE {
        // It would have been seen at the first character.
        false
    } else if encoding.is_single_byte() {
        // Words in such a charset are no valid UTF-8 by accident, while UTF-8 is often said to be Latin-1.
        utf8.is_none_or(str::is_ascii)
    } else {
        // Of a few characters both may be true, and then what is said counts.
        utf8.is_none_or(|text| {
            let continuations = text.bytes().filter(|byte| (0x80..0xc0).contains(byte)).count();
            let decode = || encoding.decode_without_bom_handling_and_without_replacement(text.as_bytes());
            continuations == 0 || (continuations < TELLING_CONTINUATIONS && decode().is_some())
        })
    }
}

/// The encoding of a label; nothing for the few whose every text `encoding_rs` refuses.
fn known(label: &[u8]) -> Option<&'static Encoding> {
    Encoding::for_label_no_replacement(label)
}

/// The encoding that an XML declaration names, read as ASCII.
fn declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let declaration = bytes.trim_ascii_start().strip_prefix(b"<?xml")?;
    let declaration = &declaration[..declaration.len().min(MAX_DECLARATION_BYTES)];
    let end = declaration.windows(2).position(|end| end == b"?>")?;
    let declaration = std::str::from_utf8(&declaration[..end]).ok()?;
    let (_, value) = declaration.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| ['"', '\''].contains(quote))?;
    let (label, _) = value[1..].split_once(quote)?;
    known(label.as_bytes())
}

/// UTF-32, which `encoding_rs` does not have.
#[derive(Debug, Clone, Copy)]
enum Wide {
    Little,
    Big,
}

impl Wide {
    /// Which UTF-32 a body is in, if it is, and how long its byte-order mark is.
    fn of(bytes: &[u8]) -> Option<(Self, usize)> {
        match *bytes.first_chunk()? {
            [0xff, 0xfe, 0, 0] => Some((Self::Little, 4)),
            [0, 0, 0xfe, 0xff] => Some((Self::Big, 4)),
            [first, 0, 0, 0] if first != 0 => Some((Self::Little, 0)),
            [0, 0, 0, first] if first != 0 => Some((Self::Big, 0)),
            _ => None,
        }
    }

    fn decode(self, bytes: &[u8]) -> String {
        let units = whole_units(bytes, 4).chunks_exact(4).map(|unit| {
            let unit = unit.try_into().ok()?;
            char::from_u32(match self {
                Self::Little => u32::from_le_bytes(unit),
                Self::Big => u32::from_be_bytes(unit),
            })
        });
        units.map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charset_of_a_content_type_is_a_label_that_is_known() {
        for (content_type, charset) in [
            ("application/json", None),
            ("application/json;charset=UTF-8", Some("utf-8")),
            ("application/json; Charset = \"ISO-8859-1\" ; q=1", Some("iso-8859-1")),
            ("text/xml; charset='utf-16le'", Some("utf-16le")),
            ("text/xml; charset=klingon; charset=latin1", Some("latin1")),
            ("text/xml; charset=", None),
            ("text/xml; charset", None),
            ("text/xml; charset=iso-2022-kr", None),
            ("charset=utf-8", None),
        ] {
            assert_eq!(charset_of(content_type).as_deref(), charset, "{content_type}");
        }
        let long = format!("text/xml; charset={}utf-8", " \t".repeat(1000));
        assert_eq!(charset_of(&long).as_deref(), Some("utf-8"));
        assert_eq!(charset_of(&format!("text/xml; charset=\"{}\"", "u".repeat(1000))), None);
    }

    #[test]
    fn utf_8_that_is_clean_is_not_copied() {
        for charset in [None, Some("utf-8"), Some("iso-8859-1"), Some("utf-16"), Some("shift_jis")] {
            assert!(matches!(decode(b"{\"type\":\"A\"}", charset), Cow::Borrowed(_)), "{charset:?}");
        }
        assert!(matches!(decode("\u{feff}{\"type\":\"Zoé\"}".as_bytes(), None), Cow::Borrowed("{\"type\":\"Zoé\"}")));
    }
}
