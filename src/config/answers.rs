//! `integrations[].answer`: which events are answered with their result.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::event::EventType;

/// When a notification is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// As soon as the event is durable; its result is reported later.
    #[default]
    Async,
    /// With the result, if it is known soon enough.
    Sync,
}

/// Which types of event are answered with their result: one word for all, or a table by type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    otherwise: Answer,
    by_type: HashMap<EventType, Answer>,
}

impl Answers {
    /// Whether the caller waits for the result of an event of this type.
    #[must_use]
    pub fn wait_for(&self, kind: &EventType) -> bool {
        match kind {
            // A question is answered, not acknowledged.
            EventType::SubscriptionStatus => true,
            // It has no result.
            EventType::SubscriptionNotice => false,
            _ => *self.by_type.get(kind).unwrap_or(&self.otherwise) == Answer::Sync,
        }
    }
}

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnswersVisitor)
    }
}

struct AnswersVisitor;

impl<'de> Visitor<'de> for AnswersVisitor {
    type Value = Answers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"async\", \"sync\", or a table of either by event type")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Answers, E> {
        let otherwise = match text {
            "async" => Answer::Async,
            "sync" => Answer::Sync,
            other => return Err(E::unknown_variant(other, &["async", "sync"])),
        };
        Ok(Answers { otherwise, by_type: HashMap::new() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Answers, A::Error> {
        let mut by_type = HashMap::new();
        while let Some(name) = table.next_key::<String>()? {
            // In the environment's spelling too, which is in lower case by then.
            let kind = EventType::from(name.to_ascii_uppercase().as_str());
            if matches!(kind, EventType::Other(_)) {
                return Err(A::Error::custom(format!(
                    "names {name}, which is no type of event; write one such as SUBSCRIPTION_ORDER"
                )));
            }
            by_type.insert(kind, table.next_value()?);
        }
        Ok(Answers { otherwise: Answer::Async, by_type })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(toml: &str) -> Result<Answers, String> {
        #[derive(Deserialize)]
        struct Table {
            answer: Answers,
        }
        toml::from_str::<Table>(toml).map(|table| table.answer).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn one_word_is_for_all_types_and_a_table_for_those_it_names() {
        let all = answers("answer = \"sync\"").expect("valid");
        let some = answers("answer = { USER_ASSIGNMENT = \"sync\" }").expect("valid");
        let none = answers("answer = \"async\"").expect("valid");
        for (kind, by_word, by_table) in [
            (EventType::SubscriptionOrder, true, false),
            (EventType::UserAssignment, true, true),
            (EventType::SubscriptionStatus, true, true),
            (EventType::SubscriptionNotice, false, false),
        ] {
            let waits = [&all, &some, &none].map(|answers| answers.wait_for(&kind));
            assert_eq!(waits, [by_word, by_table, kind == EventType::SubscriptionStatus], "{kind}");
        }
    }

    #[test]
    fn what_is_no_type_or_no_way_to_answer_is_refused_with_what_to_write() {
        for (toml, expected) in [
            ("answer = \"later\"", "unknown variant `later`"),
            ("answer = { SUBSCRIPTION_ODER = \"sync\" }", "write one such as SUBSCRIPTION_ORDER"),
            ("answer = { USER_ASSIGNMENT = \"later\" }", "unknown variant `later`"),
            ("answer = 1", "expected \"async\", \"sync\", or a table"),
        ] {
            let error = answers(toml).expect_err(toml);
            assert!(error.contains(expected), "{toml}: {error}");
        }
    }
}
