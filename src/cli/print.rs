//! The one place where the command line prints. What others wrote is made harmless for a terminal here.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};

use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use comfy_table::{ContentArrangement, Table as Cells};
use serde::Serialize;

use super::Failure;
use crate::admin::api;
use crate::printable;

/// A table whose cells are all harmless for a terminal.
pub(super) struct Table(Cells);

impl Table {
    pub(super) fn with_header<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Self {
        let mut cells = Cells::new();
        cells.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
        Self(cells)
    }

    /// A table without lines.
    pub(super) fn plain() -> Self {
        let mut cells = Cells::new();
        cells.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        Self(cells)
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        let cells = cells.into_iter().map(|cell| printable::line(cell.as_ref()).into_owned());
        self.0.add_row(cells.collect::<Vec<_>>());
    }

    /// A row of a name and a value, if there is one.
    pub(super) fn field(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.row([name, &value.to_string()]);
        }
    }

    pub(super) fn print(&self) -> Result<(), Failure> {
        write(&self.0)
    }
}

pub(super) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    write(&printable::line(text.as_ref()))
}

pub(super) fn lines(text: impl AsRef<str>) -> Result<(), Failure> {
    write(&printable::lines(text.as_ref()))
}

/// Prints a document as JSON whose fields stand as its type declares them.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let document = serde_json::to_string_pretty(value).map_err(Failure::because)?;
    write(&printable::json(&document))
}

/// Prints a document as JSON whose fields stand in alphabetical order.
pub(super) fn sorted_json(value: &impl Serialize) -> Result<(), Failure> {
    let document = api::sorted(value).map_err(Failure::because)?;
    write(&printable::json(&format!("{document:#}")))
}

/// Prints a remark on standard error. If that is closed, the command goes on.
pub(super) fn remark(text: impl Display) {
    for line in text.to_string().lines() {
        let _ = writeln!(stderr(), "doorbell: {}", printable::line(line));
    }
}

fn write(text: &dyn Display) -> Result<(), Failure> {
    let mut out = stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
        // The reader has closed the pipe, as in `doorbell events list | head`.
        ErrorKind::BrokenPipe => Failure::Printed,
        _ => Failure::Command(format!("standard output cannot be written: {error}")),
    })
}
