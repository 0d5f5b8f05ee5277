//! Copies of a store: `doorbell events export` and `import`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::super::admin_client::AdminClient;
use super::super::print;
use super::super::{Failure, Source};
use crate::admin::api::ExportPage;
use crate::app::open_store;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, StoreUrl};
use crate::printable;
use crate::store::export::Line;
use crate::store::{EXPORTED_BYTES, EventStore, Sequence, StoredEvent};

/// How many events are imported at a time, unless their bodies are large.
const BATCH: usize = 200;
/// The longest line that is read: an event with the largest body, escaped, has some six million bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;

#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    source: Source,
    /// File to write [default: standard output]. It is whole or not there.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Read a store that nobody serves.
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    #[command(flatten)]
    source: Source,
    /// What `doorbell events export` wrote, or - for standard input.
    file: PathBuf,
}

/// The source of an export.
enum ExportSource {
    Receiver(AdminClient),
    Store(Arc<dyn EventStore>),
}

impl ExportSource {
    async fn read(&self, place: Sequence) -> Result<ExportPage, Failure> {
        match self {
            Self::Receiver(client) => client.export(place).await,
            Self::Store(store) => store.export(place, BATCH).await.map(ExportPage::from).map_err(Failure::because),
        }
    }
}

impl Export {
    pub(super) async fn run(&self) -> Result<(), Failure> {
        let config = self.source.load()?;
        let from = if self.offline {
            ExportSource::Store(open_store(&config, &clock()).await.map_err(Failure::because)?)
        } else {
            ExportSource::Receiver(AdminClient::new(&config)?)
        };
        let Some(file) = &self.to else {
            return copy(&from, &mut BufWriter::new(std::io::stdout().lock())).await?.verdict();
        };
        let failed = |error: std::io::Error| Failure::Command(format!("{} cannot be written: {error}", file.display()));
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let partial = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        let copied = copy(&from, &mut BufWriter::new(partial.as_file())).await?;
        partial.as_file().sync_all().map_err(failed)?;
        partial.persist(file).map_err(|error| failed(error.error))?;
        print::remark(format_args!("{} events in {}", copied.events, file.display()));
        copied.verdict()
    }
}

/// How many events a copy has, and how many it lacks.
struct Copied {
    events: u64,
    unreadable: u64,
}

impl Copied {
    /// A copy that lacks events is kept, and fails the command.
    fn verdict(&self) -> Result<(), Failure> {
        match self.unreadable {
            0 => Ok(()),
            unreadable => Err(Failure::Command(format!("{unreadable} events cannot be read and are not in the copy"))),
        }
    }
}

/// Writes every event. Those that cannot be read are named and left out.
async fn copy(from: &ExportSource, out: &mut impl Write) -> Result<Copied, Failure> {
    let mut write = |line: Line| {
        let text = line.into_text().map_err(Failure::because)?;
        writeln!(out, "{}", printable::json(&text))
            .map_err(|error| Failure::Command(format!("the copy cannot be written: {error}")))
    };
    write(Line::Head)?;
    let (mut events, mut unreadable) = (0, 0);
    let mut place = Some(0);
    while let Some(from_here) = place {
        let exported = from.read(from_here).await?;
        for event in exported.events {
            events += 1;
            write(Line::Event(Box::new(event)))?;
        }
        for (place, reason) in exported.unreadable {
            unreadable += 1;
            print::remark(format_args!("event number {place} is not in the copy: {reason}"));
        }
        place = exported.next;
    }
    write(Line::End(events))?;
    out.flush().map_err(|error| Failure::Command(format!("the copy cannot be written: {error}")))?;
    Ok(Copied { events, unreadable })
}

impl Import {
    pub(super) async fn run(&self) -> Result<(), Failure> {
        let config = self.source.load()?;
        if config.store.url == StoreUrl::Memory {
            return Err(Failure::Command(
                "store.url is memory:, which keeps nothing; import into a sled: store".into(),
            ));
        }
        if self.file.as_os_str() == "-" {
            return import(&config, std::io::stdin().lock()).await;
        }
        let file = File::open(&self.file)
            .map_err(|error| Failure::Command(format!("{} cannot be read: {error}", self.file.display())))?;
        import(&config, BufReader::new(file)).await
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

async fn import(config: &Config, mut lines: impl BufRead) -> Result<(), Failure> {
    let clock = clock();
    let store = open_store(config, &clock).await.map_err(Failure::because)?;
    let (mut number, mut read, mut taken) = (0_u64, 0_u64, 0);
    let (mut batch, mut bytes): (Vec<StoredEvent>, usize) = (Vec::new(), 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        number += 1;
        let length = lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        let at = |reason: &dyn std::fmt::Display| {
            Failure::Command(format!(
                "line {number}: {reason}; the events before it may be imported, and are passed over \
                                      when you import again"
            ))
        };
        if length.map_err(|error| at(&error))? == 0 {
            return Err(at(&format!(
                "the copy ends here, after {read} events, and not where it should: it was cut off"
            )));
        }
        match (Line::parse(&line).map_err(|error| at(&error))?, number) {
            (Line::Head, 1) => {}
            (Line::Event(event), 2..) => {
                read += 1;
                bytes += event.body.as_ref().map_or(0, Vec::len);
                batch.push(*event);
            }
            (Line::End(events), 2..) if events == read => break,
            (Line::End(events), 2..) => return Err(at(&format!("the copy had {events} events, and {read} were read"))),
            (_, _) => return Err(at(&"it is not what stands here in a doorbell export")),
        }
        if batch.len() >= BATCH || bytes > EXPORTED_BYTES {
            taken += store.import(std::mem::take(&mut batch), clock.read()).await.map_err(|error| at(&error))?;
            bytes = 0;
        }
    }
    taken += store.import(batch, clock.read()).await.map_err(Failure::because)?;
    print::line(format!("{taken} events imported, {} were there already", read - taken as u64))
}
