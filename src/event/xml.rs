//! XML bodies as a tree.

use std::collections::HashMap;

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use super::body_error::{BodyError, MAX_DEPTH, MAX_NODES};
use super::node::Node;

/// Reads one XML document: an element with children is an object, one with text only is that text, and a name that
/// an element repeats is a list under that name.
///
/// One odd character in a text is no reason to refuse the event: control characters are read as they stand, and so is
/// an ampersand that begins no reference, together with what looks like one; see [`push_reference`]. Namespace prefixes
/// do not count; attributes count as children unless the element has text.
///
/// Nothing is expanded and nothing outside is read: a document type declaration is passed over, and one that declares
/// entities is an error, since the texts would not be what the marketplace means by them.
pub(super) fn read(text: &str) -> Result<Node, BodyError> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().allow_dangling_amp = true;
    let mut tree = Tree::default();
    loop {
        match reader.read_event().map_err(BodyError::malformed)? {
            Event::Start(start) => tree.open(&start)?,
            Event::Empty(start) => {
                tree.open(&start)?;
                tree.close();
            }
            Event::End(_) => tree.close(),
            Event::Text(text) => tree.text(&text.xml10_content()),
            Event::CData(data) => tree.text(&data.xml10_content()),
            Event::GeneralRef(reference) => {
                if let Some(element) = tree.open.last_mut() {
                    push_reference(&mut element.text, &reference);
                }
            }
            Event::DocType(declaration) if declaration.contains("<!ENTITY") => {
                return Err(malformed("its document type declaration has entities of its own, which are not read"));
            }
            Event::DocType(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return tree.finish(),
        }
    }
}

/// Adds what `&{name};` stands for: one of XML's own entities, one of HTML's, which are often written into XML without
/// a declaration, or a character by its number.
///
/// A number that is no character's is U+FFFD, and so is zero, as in HTML. What is no reference stands for itself.
fn push_reference(text: &mut String, name: &str) {
    if let Some(known) = resolve_predefined_entity(name) {
        text.push_str(known);
    } else if let Some(character) = name.strip_prefix('#').and_then(numbered) {
        text.push(character);
    } else {
        text.extend(["&", name, ";"]);
    }
}

/// The character of a reference by number; nothing if it is no number.
fn numbered(reference: &str) -> Option<char> {
    let (digits, radix) = match reference.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (reference, 10),
    };
    let is_number = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    // A number beyond 32 bits is no character's either.
    let number = u32::from_str_radix(digits, radix).unwrap_or(u32::MAX);
    let character = char::from_u32(number).filter(|character| *character != '\0');
    is_number.then(|| character.unwrap_or(char::REPLACEMENT_CHARACTER))
}

/// The value of an attribute: its references read as in a text, its white space as spaces (XML 1.0 §3.3.3).
fn attribute_value(raw: &str) -> String {
    let mut value = String::with_capacity(raw.len());
    let raw = raw.replace("\r\n", "\n");
    let mut rest = raw.as_str();
    while let Some((before, behind)) = rest.split_once('&') {
        push_spaced(&mut value, before);
        match behind.find([';', '&']) {
            Some(end) if behind[end..].starts_with(';') => {
                push_reference(&mut value, &behind[..end]);
                rest = &behind[end + 1..];
            }
            Some(_) | None => {
                value.push('&');
                rest = behind;
            }
        }
    }
    push_spaced(&mut value, rest);
    value
}

fn push_spaced(value: &mut String, text: &str) {
    value.extend(text.chars().map(|character| if matches!(character, '\t' | '\n' | '\r') { ' ' } else { character }));
}

fn malformed(reason: &str) -> BodyError {
    BodyError::malformed(reason)
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
        // Without the search for repeated names, which takes quadratic time.
        for attribute in start.attributes().with_checks(false) {
            let attribute = attribute.map_err(BodyError::malformed)?;
            let is_declaration = attribute.key.as_namespace_binding().is_some();
            let is_about_schema = attribute.key.prefix().is_some();
            if is_declaration || is_about_schema {
                continue;
            }
            self.count()?;
            let value = attribute_value(&attribute.value);
            let name = attribute.key.local_name().into_inner().to_owned();
            element.attributes.push((name, Node::Text(value)));
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
            (Some(open), _) => Err(BodyError::malformed(format_args!("it ends within <{:.40}>", open.name))),
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
