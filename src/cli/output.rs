//! stdout: rows for people or for programs.

use super::args::Format;
use super::exit::Failure;
use crate::env::world::{self, World};
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::unix::pipe;

/// stdout. Output stays in memory until [`Output::flush`].
pub(super) struct Output {
    out: BufWriter<Box<dyn Write + Send>>,
    format: Format,
    /// How to colour text.
    pub(super) paint: Paint,
}

impl Output {
    pub(super) fn new(format: Format) -> Output {
        let paint =
            Paint { on: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty()) };
        let out: Box<dyn Write + Send> = match world::here() {
            Some(world) => Box::new(Printed(world)),
            None => Box::new(io::stdout()),
        };
        Output { out: BufWriter::with_capacity(64 * 1024, out), format, paint }
    }

    pub(super) fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes this object as one line of JSON, or as the text that `text` makes of it.
    pub(super) fn row(&mut self, row: &Value, text: impl FnOnce(&Value, Paint) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => writeln!(self.out, "{row}")?,
            Format::Text => writeln!(self.out, "{}", text(row, self.paint))?,
        }
        Ok(())
    }

    /// Writes a line as it is.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{}", line.trim_end_matches('\n'))?)
    }

    /// Writes text as it is, without a line's end.
    pub(super) fn raw(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.out.write_all(text.as_bytes())?)
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

/// The standard output of a process in a simulator's world.
struct Printed(Arc<dyn World>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.print(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Resolves when the reader of stdout has closed it, so that `tail … | head -1` also ends on an
/// idle stream. Never resolves if stdout is a file.
pub(super) async fn closed() {
    // This copy is never written to, only checked for an error. So stdout may stay in blocking
    // mode, as other code expects.
    if let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned()
        && let Ok(pipe) = pipe::Sender::from_file_unchecked(File::from(stdout))
        && pipe.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paint {
    on: bool,
}

/// The meaning of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Good,
    Bad,
    Wait,
    New,
    Faint,
    Strong,
}

impl Paint {
    #[cfg(test)]
    pub(super) const OFF: Paint = Paint { on: false };

    pub(super) fn with(self, colour: Colour, text: &str) -> String {
        if !self.on || text.is_empty() {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Good => 32,
            Colour::Bad => 31,
            Colour::Wait => 33,
            Colour::New => 36,
            Colour::Faint => 2,
            Colour::Strong => 1,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
