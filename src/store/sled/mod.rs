//! Events in a directory of this machine: the store behind `sled:DIR`.
//!
//! One thread writes. It takes every write that waits, applies them, makes that durable and only then answers all
//! of them, so a hundred notifications cost one sync of the disk (group commit).
//!
//! A crash may leave a group applied in part: sled recovers the writes of one thread up to some point in their order.
//! None of those behind the last flush was acknowledged, so it is enough that every write is safe to find without the
//! ones after it:
//!
//! - what a group adds to the index comes before all else of it. That an event has ended counts only if the record it
//!   leads to has its id; how an account stands is left so again when the step that left it so is taken again;
//! - a body comes before the record that says it was read, and replaces whatever was left under its keys;
//! - of an event that is removed the status of its account is kept first, if nothing else has it, then the body goes, then the record; its index entry leads nowhere from then on;
//! - where a record stands both among the ended and in progress, the ended one counts: either the other was about to
//!   be removed, or it was an action that nobody was told of.
//!
//! sled's own batches would do the same at the price of two more synchronous writes each.

mod backup;
mod counter;
mod directory;
mod durability;
mod error;
mod group;
mod history;
mod inbox;
mod index;
mod layout;
mod lookup;
mod prepare;
mod queue;
mod records;
mod recovering;
mod retention;
mod secrets;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use directory::OpenError;
pub use recovering::RecoveringStore;
pub use store::SledStore;
