//! What the person at the terminal reads. It goes to standard output, and a terminal that has gone is no error: there is
//! still a cluster to be ended in good order.

use std::{
    fmt::{self, Display},
    io::{self, Write as _},
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Prints a line.
pub(super) fn say(line: impl Display) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

/// Numbered steps.
#[derive(Debug)]
pub(super) struct Steps {
    done: usize,
    of: usize,
}

impl Steps {
    pub(super) fn new(of: usize) -> Self {
        Self { done: 0, of }
    }

    /// Begins the next step.
    pub(super) fn next(&mut self, what: impl Display) {
        self.done += 1;
        say(format_args!("[{}/{}] {what}", self.done, self.of));
    }
}

/// How the cluster's own messages look: indented below the step that they belong to.
pub(super) struct UnderStep;

impl<S, N> FormatEvent<S, N> for UnderStep
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        write!(out, "      {level}")?;
        context.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}
