//! XML bodies as a tree.

use std::collections::HashMap;

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use super::node::{MAX_DEPTH, MAX_NODES, Node};
use super::read::BodyError;

/// Reads one XML document: an element with children is an object, one with text only is that text, and a name that
/// an element repeats is a list under that name.
///
/// There are no entities but XML's own five: a document type declaration is an error, so nothing is expanded and
/// nothing outside is read. Namespace prefixes do not count; attributes count as children unless the element has
/// text.
pub(super) fn read(text: &str) -> Result<Node, BodyError> {
    let mut reader = Reader::from_str(text);
    let mut tree = Tree::default();
    loop {
        match reader.read_event().map_err(malformed)? {
            Event::Start(start) => tree.open(&start)?,
            Event::Empty(start) => {
                tree.open(&start)?;
                tree.close();
            }
            Event::End(_) => tree.close(),
            Event::Text(text) => tree.text(&text.xml10_content()),
            Event::CData(data) => tree.text(&data.xml10_content()),
            Event::GeneralRef(reference) => {
                let character = reference.resolve_char_ref().map_err(malformed)?;
                match (character, resolve_predefined_entity(&reference)) {
                    (Some(character), _) => tree.text(character.encode_utf8(&mut [0; 4])),
                    (None, Some(text)) => tree.text(text),
                    (None, None) => {
                        return Err(malformed(format!("the entity {:.40} is not one of XML's own", &*reference)));
                    }
                }
            }
            Event::DocType(_) => return Err(malformed("it has a document type declaration, which is not read")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return tree.finish(),
        }
    }
}

fn malformed(reason: impl std::fmt::Display) -> BodyError {
    BodyError::Malformed(reason.to_string())
}

#[derive(Default)]
struct Tree {
    open: Vec<Element>,
    root: Option<Node>,
    nodes: usize,
}

#[derive(Default)]
struct Element {
    name: String,
    attributes: Vec<(String, Node)>,
    children: Vec<(String, Node)>,
    text: String,
}

impl Tree {
    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), BodyError> {
        if self.open.len() == MAX_DEPTH {
            return Err(BodyError::TooDeep);
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(malformed("it has more than one outermost element"));
        }
        self.count()?;
        let mut element = Element { name: start.local_name().into_inner().to_owned(), ..Element::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(malformed)?;
            let is_declaration = attribute.key.as_namespace_binding().is_some();
            let is_about_schema = attribute.key.prefix().is_some();
            if is_declaration || is_about_schema {
                continue;
            }
            self.count()?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(malformed)?;
            let name = attribute.key.local_name().into_inner().to_owned();
            element.attributes.push((name, Node::Text(value.into_owned())));
        }
        self.open.push(element);
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if let Some(element) = self.open.last_mut() {
            element.text.push_str(text);
        }
    }

    fn close(&mut self) {
        let Some(element) = self.open.pop() else { return };
        let (name, node) = element.finish();
        match self.open.last_mut() {
            Some(parent) => parent.children.push((name, node)),
            None => self.root = Some(node),
        }
    }

    fn count(&mut self) -> Result<(), BodyError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(BodyError::TooMany) } else { Ok(()) }
    }

    fn finish(self) -> Result<Node, BodyError> {
        match (self.open.last(), self.root) {
            (Some(open), _) => Err(malformed(format!("it ends within <{:.40}>", open.name))),
            (None, None) => Err(malformed("it has no element")),
            (None, Some(root)) => Ok(root),
        }
    }
}

impl Element {
    fn finish(self) -> (String, Node) {
        let Self { name, attributes, children, text } = self;
        let is_blank = text.trim().is_empty();
        let node = if !children.is_empty() || (is_blank && !attributes.is_empty()) {
            let mut fields = attributes;
            fields.extend(children);
            Node::Map(with_lists(fields))
        } else if is_blank {
            Node::Null
        } else {
            Node::Text(text)
        };
        (name, node)
    }
}

/// Gathers the values of a repeated name under its first place.
fn with_lists(fields: Vec<(String, Node)>) -> Vec<(String, Node)> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(fields.len());
    let mut gathered: Vec<(String, Vec<Node>)> = Vec::with_capacity(fields.len());
    for (name, node) in fields {
        if let Some(&place) = places.get(&name) {
            gathered[place].1.push(node);
        } else {
            places.insert(name.clone(), gathered.len());
            gathered.push((name, vec![node]));
        }
    }
    let single = |mut nodes: Vec<Node>| match (nodes.len(), nodes.pop()) {
        (1, Some(node)) => node,
        (_, last) => {
            nodes.extend(last);
            Node::List(nodes)
        }
    };
    gathered.into_iter().map(|(name, nodes)| (name, single(nodes))).collect()
}
