//! Why a body could not be understood.

use thiserror::Error;

/// The largest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// The deepest nesting that is read; real bodies have about six levels.
pub(super) const MAX_DEPTH: usize = 64;
/// The most values one body may hold; real ones have about a hundred.
pub(super) const MAX_NODES: usize = 20_000;
/// How much is kept of why a body is not well-formed.
const MAX_REASON_CHARS: usize = 200;

/// Why a body could not be understood at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BodyError {
    /// Larger than [`MAX_BODY_BYTES`].
    #[error("the event's body has {0} bytes; at most {MAX_BODY_BYTES} are read")]
    TooLarge(usize),
    /// Not a well-formed document.
    #[error("the event's body is not well-formed: {0}")]
    Malformed(String),
    /// Nested too deep.
    #[error("the event's body is nested more than {} levels deep", MAX_DEPTH)]
    TooDeep,
    /// Too many values.
    #[error("the event's body holds more than {} values", MAX_NODES)]
    TooMany,
    /// Well-formed, but not an object.
    #[error("the event's body is not an object")]
    NotAnObject,
    /// No `type`.
    #[error("the event's body names no type")]
    NoType,
}

impl BodyError {
    /// A document that is not well-formed, in a parser's words.
    ///
    /// They repeat what stands in the body, so they are cut, and control characters among them are escaped.
    pub(super) fn malformed(reason: impl std::fmt::Display) -> Self {
        let mut words = String::new();
        for character in reason.to_string().chars().take(MAX_REASON_CHARS) {
            if character.is_control() { words.extend(character.escape_default()) } else { words.push(character) }
        }
        Self::Malformed(words)
    }
}
