//! The operator's view of events, and copies of them.

mod copy;

use clap::{Args, Subcommand};

use super::admin_client::AdminClient;
use super::print::{self, Table};
use super::{Failure, Output, Source};
use crate::admin::api::{self, BodyEncoding, EventDetail, EventQuery, EventSummary, ResolveRequest};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List events, newest first.
    #[command(after_help = "Example:\n  doorbell events list --state dead")]
    List(List),
    /// Show an event with its body and everything it went through.
    #[command(after_help = "Example:\n  doorbell events show 6f0d81e4-52a9-5c0b-9c35-0f6b7a1ed00b")]
    Show(One),
    /// Run a dead, deferred or finished event again.
    #[command(after_help = "Example:\n  doorbell events retry 6f0d81e4-52a9-5c0b-9c35-0f6b7a1ed00b")]
    Retry(One),
    /// Answer for a deferred or dead event.
    #[command(
        after_help = "Example:\n  doorbell events resolve ID --account-identifier acct-1\n  doorbell events resolve ID \
                      --error-code ACCOUNT_NOT_FOUND --message \"no such account\""
    )]
    Resolve(Resolve),
    /// Write a copy of every event, while the receiver runs: a backup.
    #[command(after_help = "Example:\n  doorbell events export --to backup.ndjson\n\nSigning keys are not in it.")]
    Export(copy::Export),
    /// Take events from a copy into a store that nobody serves: the way back from a damaged or retired one.
    #[command(
        after_help = "Example:\n  doorbell events import backup.ndjson\n\nEvents that are there already are passed over, so \
                      an import that was cut off can be done again."
    )]
    Import(copy::Import),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    source: Source,
    /// received, fetched, handled, done, deferred or dead.
    #[arg(long)]
    state: Option<String>,
    /// A type such as `SUBSCRIPTION_ORDER`.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// An account.
    #[arg(long)]
    account: Option<String>,
    /// An integration's name.
    #[arg(long)]
    integration: Option<String>,
    /// Received at this moment (RFC 3339) or later.
    #[arg(long)]
    from: Option<String>,
    /// Received before this moment.
    #[arg(long)]
    to: Option<String>,
    /// How many.
    #[arg(long, default_value = "20")]
    limit: usize,
    /// Where a longer list goes on.
    #[arg(long)]
    cursor: Option<String>,
    /// How to print them.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
struct One {
    #[command(flatten)]
    source: Source,
    /// The event.
    id: String,
    /// How to print it.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
struct Resolve {
    #[command(flatten)]
    one: One,
    /// The vendor's name of the account: an order that succeeded must have one.
    #[arg(long, value_name = "NAME")]
    account_identifier: Option<String>,
    /// The vendor's name of the user.
    #[arg(long, value_name = "NAME")]
    user_identifier: Option<String>,
    /// Why it did not succeed; without it, it did.
    #[arg(long, value_name = "CODE")]
    error_code: Option<String>,
    /// What the marketplace is told.
    #[arg(long)]
    message: Option<String>,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        Action::List(list) => list.run().await,
        Action::Show(one) => {
            let event = one.client()?.event(&one.id).await?;
            if one.output == Output::Json { print::sorted_json(&event) } else { print_detail(&event) }
        }
        Action::Retry(one) => one.print_summary(&one.client()?.retry(&one.id).await?),
        Action::Resolve(Resolve { one, account_identifier, user_identifier, error_code, message }) => {
            let result = ResolveRequest {
                success: error_code.is_none(),
                error_code: error_code.as_deref().map(Into::into),
                message: message.clone(),
                account_identifier: account_identifier.clone(),
                user_identifier: user_identifier.clone(),
            };
            one.print_summary(&one.client()?.resolve(&one.id, &result).await?)
        }
        Action::Export(export) => export.run().await,
        Action::Import(import) => import.run().await,
    }
}

impl One {
    fn client(&self) -> Result<AdminClient, Failure> {
        AdminClient::new(&self.source.load()?)
    }

    fn print_summary(&self, event: &EventSummary) -> Result<(), Failure> {
        if self.output == Output::Json {
            return print::sorted_json(event);
        }
        let mut table = Table::plain();
        add_summary(&mut table, event)?;
        table.print()
    }
}

impl List {
    async fn run(&self) -> Result<(), Failure> {
        let query = EventQuery {
            state: self.state.clone(),
            kind: self.kind.clone(),
            account: self.account.clone(),
            integration: self.integration.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            limit: Some(self.limit),
            cursor: self.cursor.clone(),
        };
        let page = AdminClient::new(&self.source.load()?)?.events(&query).await?;
        if self.output == Output::Json {
            return print::sorted_json(&page);
        }
        let mut table = Table::with_header(["received", "event", "type", "account", "state", "attempts", "last error"]);
        for event in &page.events {
            table.row([
                event.received_at.as_str(),
                &event.id.to_string(),
                event.kind.as_ref().map_or("", |kind| kind.as_str()),
                event.account.as_deref().unwrap_or_default(),
                event.state.as_str(),
                &event.attempts.to_string(),
                event.last_error.as_deref().unwrap_or_default(),
            ]);
        }
        table.print()?;
        for event in &page.unreadable {
            print::line(format!("event number {} cannot be read: {}", event.number, event.reason))?;
        }
        page.next.map_or(Ok(()), |next| print::line(format!("there are more: --cursor {next}")))
    }
}

fn print_detail(event: &EventDetail) -> Result<(), Failure> {
    let mut table = Table::plain();
    add_summary(&mut table, &event.summary)?;
    table.field("charset", event.charset.as_deref());
    table.field("bodyEncoding", event.body_encoding.map(BodyEncoding::as_str));
    table.print()?;
    let mut timeline = Table::with_header(["at", "step", "note"]);
    for entry in &event.timeline {
        timeline.row([entry.at.as_str(), &entry.step, entry.note.as_deref().unwrap_or_default()]);
    }
    timeline.print()?;
    if event.timeline_forgotten > 0 {
        print::line(format!("of the steps in the middle {} are not kept", event.timeline_forgotten))?;
    }
    event.body.as_ref().map_or(Ok(()), print::lines)
}

fn add_summary(table: &mut Table, event: &EventSummary) -> Result<(), Failure> {
    let result = event.result.as_ref().map(api::sorted).transpose().map_err(Failure::because)?;
    table.field("id", Some(event.id));
    table.field("eventUrl", Some(&event.event_url));
    table.field("integration", Some(&event.integration));
    table.field("type", event.kind.as_ref());
    table.field("flag", event.flag.as_ref());
    table.field("account", event.account.as_ref());
    table.field("state", Some(event.state));
    table.field("receivedAt", Some(&event.received_at));
    table.field("updatedAt", Some(&event.updated_at));
    table.field("attempts", Some(event.attempts));
    table.field("result", result);
    table.field("lastError", event.last_error.as_ref());
    Ok(())
}
