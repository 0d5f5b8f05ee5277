//! How an answer is packed (RFC 9110 §8.4), and what is in it.

use std::io::{self, Read};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// What is asked for: what [`unpacked`] can undo.
pub(super) const ACCEPTED: &str = "gzip, deflate";
/// How many codings one answer may have been through.
const MAX_CODINGS: usize = 3;
/// How a gzip stream begins (RFC 1952 §2.3.1).
const GZIP_START: &[u8] = b"\x1f\x8b";

/// Why an answer could not be unpacked.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// It is larger than is read.
    TooLarge,
    /// Its `Content-Encoding` and its bytes do not go together, or it was not asked for: in words that go behind
    /// the name of the host.
    Encoding(String),
}

impl DecodeError {
    fn behind(self, words: &str) -> Self {
        match self {
            Self::TooLarge => Self::TooLarge,
            Self::Encoding(problem) => Self::Encoding(format!("{words} {problem}")),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Coding {
    Gzip,
    Deflate,
}

/// The content of an answer with these headers, of at most `limit` bytes.
///
/// Counted while it is unpacked, at every step, so that a small answer cannot become a large one in memory. What begins
/// as gzip does is unpacked though no header says so: no document that is read here begins like that.
pub(super) fn unpacked(headers: &HeaderMap, bytes: Vec<u8>, limit: usize) -> Result<Vec<u8>, DecodeError> {
    if bytes.is_empty() {
        return Ok(bytes);
    }
    let mut content = bytes;
    for (coding, name) in codings(headers)?.into_iter().rev() {
        let words = format!("says Content-Encoding {name}, and its answer");
        content = undo(coding, &content, limit).map_err(|error| error.behind(&words))?;
    }
    if content.starts_with(GZIP_START) {
        let words = "says nothing of gzip, and its answer begins like that, but";
        content = undo(Coding::Gzip, &content, limit).map_err(|error| error.behind(words))?;
    }
    Ok(content)
}

/// The codings of an answer and how it names them, in the order in which they were applied.
fn codings(headers: &HeaderMap) -> Result<Vec<(Coding, &'static str)>, DecodeError> {
    let lists = headers.get_all(CONTENT_ENCODING).into_iter();
    let lists: Vec<String> = lists.map(|list| String::from_utf8_lossy(list.as_bytes()).to_ascii_lowercase()).collect();
    let mut codings = Vec::new();
    for name in lists.iter().flat_map(|list| list.split(',')).map(str::trim) {
        codings.push(match name {
            "gzip" => (Coding::Gzip, "gzip"),
            "x-gzip" => (Coding::Gzip, "x-gzip"),
            "deflate" => (Coding::Deflate, "deflate"),
            "aes128gcm" | "br" | "compress" | "dcb" | "dcz" | "exi" | "pack200-gzip" | "x-compress" | "zstd" => {
                let problem =
                    format!("says Content-Encoding {name}, which was not asked for: only {ACCEPTED} can be read");
                return Err(DecodeError::Encoding(problem));
            }
            // Nothing, `identity`, or what is no coding at all: a charset is often written here by mistake.
            _ => continue,
        });
        if codings.len() > MAX_CODINGS {
            return Err(DecodeError::Encoding(format!("says Content-Encoding more than {MAX_CODINGS} times over")));
        }
    }
    Ok(codings)
}

/// What `bytes` were before this coding.
///
/// By their own evidence where there is some: deflate is a zlib stream by the standard and often a bare one, and
/// answers that are gzip are called deflate.
fn undo(coding: Coding, bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    let is_gzip = bytes.starts_with(GZIP_START);
    match coding {
        Coding::Gzip | Coding::Deflate if is_gzip => read_whole(MultiGzDecoder::new(bytes), limit, |_| true),
        Coding::Gzip => Err(DecodeError::Encoding("is not".to_owned())),
        Coding::Deflate => match read_whole(ZlibDecoder::new(bytes), limit, |it| it.get_ref().is_empty()) {
            Err(DecodeError::Encoding(problem)) => {
                read_whole(DeflateDecoder::new(bytes), limit, |it| it.get_ref().is_empty()).map_err(|error| match error
                {
                    DecodeError::TooLarge => DecodeError::TooLarge,
                    DecodeError::Encoding(_) => DecodeError::Encoding(problem),
                })
            }
            whole => whole,
        },
    }
}

/// All that `decoder` gives. It must have read everything: a document can begin like a stream that ends early.
fn read_whole<D: Read>(
    mut decoder: D,
    limit: usize,
    is_at_end: impl FnOnce(&D) -> bool,
) -> Result<Vec<u8>, DecodeError> {
    let mut content = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    match decoder.by_ref().take(bound).read_to_end(&mut content) {
        Ok(_) if content.len() > limit => Err(DecodeError::TooLarge),
        Ok(_) if is_at_end(&decoder) => Ok(content),
        Ok(_) => Err(DecodeError::Encoding("is not".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(DecodeError::Encoding("breaks off".to_owned()))
        }
        Err(error) => Err(DecodeError::Encoding(format!("is not: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const CONTENT: &[u8] = b"{\"type\":\"SUBSCRIPTION_NOTICE\",\"payload\":{}}";
    const LIMIT: usize = 1 << 16;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("packs")
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("packs")
    }

    fn bare(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("packs")
    }

    fn read(encodings: &[&str], bytes: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
        let mut headers = HeaderMap::new();
        for encoding in encodings {
            headers.append(CONTENT_ENCODING, HeaderValue::from_str(encoding).expect("a value"));
        }
        unpacked(&headers, bytes, LIMIT)
    }

    #[test]
    fn an_answer_is_unpacked_however_its_coding_is_spelt() {
        let cases: [(&[&str], Vec<u8>); 18] = [
            (&[], CONTENT.to_vec()),
            (&[""], CONTENT.to_vec()),
            (&["identity"], CONTENT.to_vec()),
            (&["Identity, "], CONTENT.to_vec()),
            (&["utf-8"], CONTENT.to_vec()),
            (&["gzip"], gzip(CONTENT)),
            (&["GZIP"], gzip(CONTENT)),
            (&[" X-Gzip "], gzip(CONTENT)),
            (&["gzip, identity"], gzip(CONTENT)),
            (&["UTF-8, gzip"], gzip(CONTENT)),
            (&["deflate"], zlib(CONTENT)),
            (&["Deflate"], bare(CONTENT)),
            (&["deflate"], gzip(CONTENT)),
            (&["deflate, gzip"], gzip(&zlib(CONTENT))),
            (&["gzip, deflate"], bare(&gzip(CONTENT))),
            (&["gzip", "gzip"], gzip(&gzip(CONTENT))),
            (&[], gzip(CONTENT)),
            (&["gzip"], [gzip(&CONTENT[..9]), gzip(&CONTENT[9..])].concat()),
        ];
        for (encodings, bytes) in cases {
            let content = read(encodings, bytes).unwrap_or_else(|error| panic!("{encodings:?}: {error:?}"));
            assert_eq!(content, CONTENT, "{encodings:?}");
        }
        assert_eq!(read(&["gzip"], Vec::new()).expect("no content"), b"");
    }

    #[test]
    fn what_an_answer_says_and_is_not_is_told_by_name() {
        let broken = |bytes: Vec<u8>| bytes[..bytes.len() - 9].to_vec();
        let cases: [(&[&str], Vec<u8>, &str); 13] = [
            (&["GZIP"], CONTENT.to_vec(), "says Content-Encoding gzip, and its answer is not"),
            (&["x-gzip"], zlib(CONTENT), "says Content-Encoding x-gzip, and its answer is not"),
            (&["gzip"], broken(gzip(CONTENT)), "says Content-Encoding gzip, and its answer breaks off"),
            (&["gzip"], [gzip(CONTENT), b"x".repeat(20)].concat(), "says Content-Encoding gzip, and its answer is not"),
            (&["gzip, gzip"], gzip(CONTENT), "says Content-Encoding gzip, and its answer is not"),
            (&["deflate"], CONTENT.to_vec(), "says Content-Encoding deflate, and its answer is not"),
            (&["deflate"], b"<event/>".to_vec(), "says Content-Encoding deflate, and its answer is not"),
            (&["deflate"], broken(zlib(CONTENT)), "says Content-Encoding deflate, and its answer breaks off"),
            (
                &["deflate"],
                [bare(CONTENT), CONTENT.to_vec()].concat(),
                "says Content-Encoding deflate, and its answer is not",
            ),
            (&["br"], CONTENT.to_vec(), "says Content-Encoding br, which was not asked for"),
            (&["ZSTD"], b"(\xb5/\xfd".to_vec(), "says Content-Encoding zstd, which was not asked for"),
            (&["gzip, gzip", "gzip", "gzip"], CONTENT.to_vec(), "says Content-Encoding more than 3 times over"),
            (&[], GZIP_START.to_vec(), "says nothing of gzip, and its answer begins like that, but breaks off"),
        ];
        for (encodings, bytes, words) in cases {
            match read(encodings, bytes) {
                Err(DecodeError::Encoding(problem)) => assert!(problem.starts_with(words), "{encodings:?}: {problem}"),
                other => panic!("{encodings:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn no_more_than_the_limit_is_ever_unpacked() {
        let just = vec![b' '; LIMIT];
        let bomb = vec![b' '; LIMIT + 1];
        for pack in [gzip, zlib, bare] {
            let encoding = if pack(b"x").starts_with(GZIP_START) { "gzip" } else { "deflate" };
            assert_eq!(read(&[encoding], pack(&just)).expect("within the limit"), just);
            assert!(matches!(read(&[encoding], pack(&bomb)), Err(DecodeError::TooLarge)), "{encoding}");
        }
        assert!(matches!(read(&[], gzip(&bomb)), Err(DecodeError::TooLarge)));
        // A step in between may be no larger either.
        assert!(matches!(read(&["gzip, gzip"], gzip(&gzip(&bomb))), Err(DecodeError::TooLarge)));
        let padded = [gzip(b"x"), gzip(&vec![7; 40 * LIMIT])].concat();
        assert!(matches!(read(&["gzip"], padded), Err(DecodeError::TooLarge)));
    }

    proptest! {
        /// What was packed and then damaged, or never packed, is content or a fault, and never more than the limit.
        #[test]
        fn no_answer_whatever_is_unpacked_beyond_the_limit(
            encodings in proptest::collection::vec("(gzip|x-gzip|deflate|identity|br|[ -~]{0,9})(, ?(gzip|deflate))?", 0..4),
            packing in 0..4, content: Vec<u8>, damage in proptest::option::of((0..64_usize, any::<u8>())),
        ) {
            let mut bytes = match packing {
                0 => content,
                1 => gzip(&content),
                2 => zlib(&content),
                _ => bare(&gzip(&content)),
            };
            if let Some((place, byte)) = damage
                && let Some(damaged) = bytes.get_mut(place)
            {
                *damaged = byte;
            }
            let encodings: Vec<&str> = encodings.iter().map(String::as_str).collect();
            match read(&encodings, bytes) {
                Ok(content) => prop_assert!(content.len() <= LIMIT),
                Err(DecodeError::TooLarge) => {}
                Err(DecodeError::Encoding(problem)) => prop_assert!(problem.len() < 200 && problem.starts_with("says "), "{}", problem),
            }
        }
    }
}
