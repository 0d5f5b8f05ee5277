//! A body of whatever format as one tree, read leniently.
//!
//! Real bodies differ from every table of the wire (a list where one object was promised, a number in
//! quotes, a name in lower case), so the typed model is built from questions that a tree answers as well as
//! it can, not from a schema that a body must match.

use super::body_error::{BodyError, MAX_DEPTH, MAX_NODES};

/// One value of a body.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    /// Text as it came; numbers and booleans too, so that no digit is lost.
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The value under `name`; by exact spelling first, then without regard to case.
    pub(super) fn get(&self, name: &str) -> &Self {
        const NOTHING: &Node = &Node::Null;
        let Self::Map(fields) = self else { return NOTHING };
        // From the end, since where a JSON object repeats a name the last one counts.
        let exact = fields.iter().rev().find(|(key, _)| key == name);
        exact
            .or_else(|| fields.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map_or(NOTHING, |(_, value)| value)
    }

    /// The text of a value that has some: trimmed, and absent when nothing is left.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => {
                let trimmed = text.trim();
                (!trimmed.is_empty()).then(|| trimmed.to_owned())
            }
            Self::Null | Self::List(_) | Self::Map(_) => None,
        }
    }

    /// The text under `name`.
    pub(super) fn text_of(&self, name: &str) -> Option<String> {
        self.get(name).text()
    }

    /// An object read by `read`; nothing for `null`, an empty list or text where an object was promised.
    pub(super) fn object<T>(&self, read: impl FnOnce(&Self) -> T) -> Option<T> {
        match self {
            Self::Map(fields) if fields.is_empty() => None,
            Self::Map(_) => Some(read(self)),
            Self::Null | Self::Text(_) | Self::List(_) => None,
        }
    }

    /// The values of a list; a single value counts as a list of one, `null` as none.
    pub(super) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            Self::Null => &[],
            Self::Text(text) if text.trim().is_empty() => &[],
            Self::Text(_) | Self::Map(_) => std::slice::from_ref(self),
        }
    }

    /// The values of the list under `name`, however it is written: as a list, as one value, under the name of a
    /// single value, or, as XML does, as an object that repeats that name.
    pub(super) fn list<'n>(&'n self, name: &'n str, single: &'n str) -> impl Iterator<Item = &'n Self> {
        let listed = self.get(name);
        let wrapped = !matches!(listed.get(single), Self::Null);
        let plain: &[Self] = if wrapped { &[] } else { listed.items() };
        plain.iter().chain(listed.list_of(single)).chain(self.list_of(single))
    }

    /// The values under `name`, as a list.
    pub(super) fn list_of(&self, name: &str) -> impl Iterator<Item = &Self> {
        self.get(name).items().iter()
    }

    /// The fields of an object; none for anything else.
    pub(super) fn fields(&self) -> &[(String, Self)] {
        match self {
            Self::Map(fields) => fields,
            Self::Null | Self::Text(_) | Self::List(_) => &[],
        }
    }
}

impl From<Node> for serde_json::Value {
    /// The same in serde's words; numbers and booleans stay text.
    fn from(node: Node) -> Self {
        match node {
            Node::Null => Self::Null,
            Node::Text(text) => Self::String(text),
            Node::List(items) => items.into_iter().map(Self::from).collect(),
            Node::Map(fields) => Self::Object(fields.into_iter().map(|(name, node)| (name, node.into())).collect()),
        }
    }
}

/// Builds a tree from the events of a parser, within [`MAX_DEPTH`] and [`MAX_NODES`].
#[derive(Debug, Default)]
pub(super) struct Builder {
    open: Vec<(Option<String>, Node)>,
    key: Option<String>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder {
    pub(super) fn key(&mut self, key: String) {
        self.key = Some(key);
    }

    pub(super) fn open(&mut self, container: Node) -> Result<(), BodyError> {
        if self.open.len() == MAX_DEPTH {
            return Err(BodyError::TooDeep);
        }
        self.count()?;
        self.open.push((self.key.take(), container));
        Ok(())
    }

    pub(super) fn close(&mut self) {
        if let Some((key, node)) = self.open.pop() {
            self.key = key;
            self.place(node);
        }
    }

    pub(super) fn value(&mut self, node: Node) -> Result<(), BodyError> {
        self.count()?;
        self.place(node);
        Ok(())
    }

    /// The finished tree.
    pub(super) fn finish(self) -> Node {
        self.root.unwrap_or(Node::Null)
    }

    fn count(&mut self) -> Result<(), BodyError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(BodyError::TooMany) } else { Ok(()) }
    }

    fn place(&mut self, node: Node) {
        let key = self.key.take();
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((_, Node::List(items))) => items.push(node),
            Some((_, Node::Map(fields))) => fields.push((key.unwrap_or_default(), node)),
            Some((_, Node::Null | Node::Text(_))) => {}
        }
    }
}
