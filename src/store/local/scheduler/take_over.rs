//! Going on with the holds of a scheduler of the same events.

use std::sync::Arc;

use super::Scheduler;
use super::holds::Hold;
use super::marketplace_queue::Stage;
use crate::clock::Moment;

impl Scheduler {
    /// Takes over the holds of a scheduler of the same events in the same process, so that a store that is opened again hands
    /// out nothing that somebody still works on, and knows what was lost.
    ///
    /// Nobody knows which steps that were under way then have been taken. An event whose account only such a step made
    /// known is not held on, since another of the account may run: its holder can tell by the record, and ends.
    pub(in crate::store) fn take_over(&mut self, before: &mut Self, now: Moment) {
        before.catch_up(now);
        self.dropped = Arc::clone(&before.dropped);
        self.last_fence = before.last_fence;
        for (&sequence, old) in &before.entries {
            let Some(entry) = self.entries.get_mut(&sequence).filter(|entry| entry.id == old.id) else { continue };
            (entry.was_lost, entry.losses) = (old.was_lost, old.losses);
            let hold = old.hold.as_ref().filter(|hold| hold.is_leased && entry.account == old.account);
            let Some(hold) = hold.cloned() else { continue };
            self.withdraw(sequence);
            let Some(entry) = self.entries.get_mut(&sequence) else { continue };
            entry.hold = Some(Hold { is_restored: true, ..hold });
            if entry.stage == Stage::FirstReading {
                entry.stage = Stage::Reading;
            }
            let marketplace = entry.marketplace;
            if let Some(until) = before.marketplaces[old.marketplace].reads_until(sequence) {
                self.marketplaces[marketplace].read_until(sequence, until);
            }
            self.hold_account(sequence);
            // An earlier event of the account that was on offer waits for this one, as it did before (G5).
            let account = self.entries.get(&sequence).and_then(|entry| entry.account.as_ref());
            if let Some(first) = self.accounts.first(account).filter(|first| *first != sequence) {
                self.withdraw(first);
            }
        }
    }
}
