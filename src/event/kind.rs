//! Types and flags of events, by their wire names.

/// Declares an enum of wire values that stays open: a value nobody has seen yet is kept as its text.
///
/// The wire's enumerations grow without notice; an event must never be refused for a new word.
macro_rules! open_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* #[doc = concat!("`", $text, "`")] $variant,)+
            /// A value this version has no name for, as it came.
            Other(String),
        }

        impl $name {
            /// The value as the wire spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Ok(Self::from(&*text))
            }
        }
    };
}
pub(super) use open_enum;

open_enum! {
    /// What happened.
    EventType {
        /// A customer bought the product:
        SubscriptionOrder = "SUBSCRIPTION_ORDER",
        /// Upgrade, downgrade, new owner, new quantity:
        SubscriptionChange = "SUBSCRIPTION_CHANGE",
        /// The customer cancels:
        SubscriptionCancel = "SUBSCRIPTION_CANCEL",
        /// The marketplace tells of a state it has set itself; no result is reported:
        SubscriptionNotice = "SUBSCRIPTION_NOTICE",
        /// The marketplace asks how things stand:
        SubscriptionStatus = "SUBSCRIPTION_STATUS",
        /// A seat is given:
        UserAssignment = "USER_ASSIGNMENT",
        /// A seat is taken:
        UserUnassignment = "USER_UNASSIGNMENT",
        /// A user's details changed:
        UserUpdated = "USER_UPDATED",
        /// Documented by name only:
        UserSync = "USER_SYNC",
        /// Documented by name only:
        UserLink = "USER_LINK",
        /// Documented by name only:
        AccountSync = "ACCOUNT_SYNC",
        /// Documented by name only:
        AccountUnsync = "ACCOUNT_UNSYNC",
        /// An add-on was bought:
        AddonOrder = "ADDON_ORDER",
        /// An add-on was changed:
        AddonChange = "ADDON_CHANGE",
        /// An add-on was cancelled:
        AddonCancel = "ADDON_CANCEL",
        /// An add-on was bound to a user:
        AddonBind = "ADDON_BIND",
        /// An add-on was unbound from a user:
        AddonUnbind = "ADDON_UNBIND",
    }
}

open_enum! {
    /// A mark on the whole event.
    Flag {
        /// A ping test: keep no state, run no product logic:
        Stateless = "STATELESS",
        /// A test purchase: the real flow without invoices:
        Development = "DEVELOPMENT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_event_type_survives_a_round_trip_as_its_text() {
        let kind: EventType = serde_json::from_str("\"SUBSCRIPTION_MOVED\"").expect("any text is a type");
        assert_eq!(kind, EventType::Other("SUBSCRIPTION_MOVED".into()));
        assert_eq!(serde_json::to_string(&kind).expect("serializes"), "\"SUBSCRIPTION_MOVED\"");
    }
}
