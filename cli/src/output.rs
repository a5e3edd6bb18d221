//! The only place that prints. Data goes to stdout; everything said about it goes to stderr.

use std::io::{self, IsTerminal as _, Write as _};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::{
    args::{Format, Global},
    failure::Failure,
    table::{self, Column},
};

/// Names a message, so that its descriptor is found.
pub(crate) trait Named: Message {
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ident)*) => { $(impl Named for vda_proto::v1::$message { const NAME: &'static str = concat!("vda.v1.", stringify!($message)); })* };
}
named!(Dn Pd Cn Da Exp ListDnReply ListPdReply ListCnReply ListDaReply ListExpReply DeleteReply SyncupReply ClusterSummary);

/// Where and how results are shown.
pub(crate) struct Output {
    format: Format,
    colour: bool,
}

impl Output {
    /// Colour only for a person: stdout is a terminal and `NO_COLOR` is not set (<https://no-color.org>).
    pub(crate) fn new(global: &Global) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { format: global.output, colour: wanted && io::stdout().is_terminal() }
    }

    /// One message: as it is in json and yaml, else what `human` makes of it.
    pub(crate) fn message<M: Named>(
        &self,
        message: &M,
        human: impl FnOnce(Human) -> String,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Json => json(message)?,
            Format::Yaml => yaml(message)?,
            Format::Table => human(Human { wide: false, colour: self.colour }),
            Format::Wide => human(Human { wide: true, colour: self.colour }),
        };
        self.raw(text.as_bytes())
    }

    /// Bytes as they are; a reader that has gone away (`| head -1`) is no error.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::Output(error),
        })
    }
}

/// How text for people is laid out.
#[derive(Clone, Copy)]
pub(crate) struct Human {
    pub(crate) wide: bool,
    colour: bool,
}

impl Human {
    pub(crate) fn table<T>(&self, columns: &[Column<T>], rows: &[T]) -> String {
        table::render(columns, rows, self.wide, self.colour)
    }

    /// A further table, below another one; nothing if it has no rows.
    pub(crate) fn also<T>(&self, columns: &[Column<T>], rows: &[T]) -> String {
        if rows.is_empty() { String::new() } else { format!("\n{}", self.table(columns, rows)) }
    }
}

/// Text for stderr; that nobody reads it is no reason to fail.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Proto field names, numbers as numbers, and fields at their default too: a script may rely on every field.
fn options() -> SerializeOptions {
    SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .skip_default_fields(false)
}

fn dynamic<M: Named>(message: &M) -> Result<DynamicMessage, Failure> {
    let broken = |e: &dyn std::fmt::Display| Failure::Output(io::Error::other(format!("{}: {e}", M::NAME)));
    let pool = DescriptorPool::decode(vda_proto::DESCRIPTORS).map_err(|e| broken(&e))?;
    let descriptor = pool.get_message_by_name(M::NAME).ok_or_else(|| broken(&"no descriptor"))?;
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|e| broken(&e))
}

fn json<M: Named>(message: &M) -> Result<String, Failure> {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::pretty(&mut out);
    dynamic(message)?
        .serialize_with_options(&mut serializer, &options())
        .map_err(|e| Failure::Output(io::Error::other(e)))?;
    out.push(b'\n');
    String::from_utf8(out).map_err(|e| Failure::Output(io::Error::other(e)))
}

fn yaml<M: Named>(message: &M) -> Result<String, Failure> {
    let mut out = Vec::new();
    let mut serializer = serde_norway::Serializer::new(&mut out);
    dynamic(message)?
        .serialize_with_options(&mut serializer, &options())
        .map_err(|e| Failure::Output(io::Error::other(e)))?;
    String::from_utf8(out).map_err(|e| Failure::Output(io::Error::other(e)))
}
