//! Many runs become one, a few entries at a time.

use std::sync::Arc;

use sled::{IVec, Tree};

use super::entry::{Entry, Name};
use super::keys::Sink;
use super::run::{Run, RunWriter};
use crate::store::error::StoreError;

/// A merge under way: where it is in each run, and what it has written.
#[derive(Debug)]
pub(super) struct Merge {
    /// The newest first: of entries with one name its entry counts.
    inputs: Vec<Cursor>,
    output: RunWriter,
}

impl Merge {
    /// Begins to merge `inputs`, the newest first, into a run of this number.
    pub(super) fn begin(tree: &Tree, inputs: Vec<Arc<Run>>, number: u64) -> Result<Self, StoreError> {
        let entries = inputs.iter().map(|run| run.header.entries).sum();
        let inputs = inputs.into_iter().map(|run| Cursor::at_the_first(tree, run)).collect::<Result<_, _>>()?;
        Ok(Self { inputs, output: RunWriter::new(number, entries) })
    }

    /// Passes over `count` names, without the entries that are `gone`, and returns whether those were the last.
    pub(super) fn step(
        &mut self,
        tree: &Tree,
        count: usize,
        gone: &dyn Fn(u64) -> Result<bool, StoreError>,
        write: Sink<'_>,
    ) -> Result<bool, StoreError> {
        for _ in 0..count {
            let Some(name) = self.inputs.iter().filter_map(Cursor::head).map(|entry| entry.name).min() else {
                return Ok(true);
            };
            let mut newest = None;
            for input in &mut self.inputs {
                if let Some(entry) = input.head().filter(|entry| entry.name == name) {
                    newest = newest.or(Some(entry));
                    input.pass(tree)?;
                }
            }
            if let Some(entry) = newest
                && !gone(entry.number)?
            {
                self.output.push(entry, write)?;
            }
        }
        Ok(false)
    }

    /// Ends the merge, and returns the run that it made of the others.
    pub(super) fn finish(self, write: Sink<'_>) -> Result<(Run, Vec<Arc<Run>>), StoreError> {
        let headers = || self.inputs.iter().map(|input| &input.run.header);
        let level = headers().map(|header| header.level).max().unwrap_or(0).saturating_add(1);
        let first = headers().map(|header| header.span.0).min().unwrap_or(0);
        let last = headers().map(|header| header.span.1).max().unwrap_or(0);
        let wal = headers().map(|header| header.wal).max().unwrap_or(0);
        let merged = self.output.finish(level, (first, last), wal, write)?;
        Ok((merged, self.inputs.into_iter().map(|input| input.run).collect()))
    }
}

/// A place in a run.
#[derive(Debug)]
struct Cursor {
    run: Arc<Run>,
    /// The entries under one key, and the name they lie under.
    chunk: Option<(Name, IVec)>,
    position: usize,
}

impl Cursor {
    fn at_the_first(tree: &Tree, run: Arc<Run>) -> Result<Self, StoreError> {
        Ok(Self { chunk: run.chunk_after(tree, None)?, run, position: 0 })
    }

    fn head(&self) -> Option<Entry> {
        self.chunk.as_ref().and_then(|(_, chunk)| Entry::at(chunk, self.position))
    }

    fn pass(&mut self, tree: &Tree) -> Result<(), StoreError> {
        self.position += 1;
        if let Some((first, _)) = self.chunk.as_ref().filter(|_| self.head().is_none()) {
            self.chunk = self.run.chunk_after(tree, Some(*first))?;
            self.position = 0;
        }
        Ok(())
    }
}
