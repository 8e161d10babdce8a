//! Log lines: text for a person at a terminal, JSON for a machine. Whatever comes from outside (names, reasons, peers'
//! texts) has its control characters written out, so that no line can be forged and no terminal be steered.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// The variable that says how much is logged, such as `info` or `mintage_agent=debug`.
pub const LOG_VARIABLE: &str = "MINTAGE_LOG";

/// Starts logging to standard error for this process; a second call changes nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Lines);
    // An error means that somebody set a subscriber up before: his choice stands.
    let _ = match io::stderr().is_terminal() {
        true => builder.try_init(),
        false => builder.json().flatten_event(true).try_init(),
    };
}

/// Makes a writer for each event; the formatter hands a whole event over in one call.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(io::stderr())
    }
}

/// Writes one event as one line.
struct Line<W>(W);

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(escaped(event).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// True for characters that steer a terminal or turn the direction of text; the CA's log has the same list.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// `event` without control and direction characters but the line end at its end.
fn escaped(event: &[u8]) -> String {
    let text = String::from_utf8_lossy(event);
    let (body, end) = match text.strip_suffix('\n') {
        Some(body) => (body, "\n"),
        None => (&*text, ""),
    };
    let mut line = String::with_capacity(event.len());
    for c in body.chars() {
        if steers(c) {
            // All of them are in the basic plane. This form is right in JSON too, where they stand inside strings.
            line.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            line.push(c);
        }
    }
    line.push_str(end);
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn log_injection_by_newline_ansi_and_direction_marks_is_escaped() {
        let line = escaped("a\nlevel=INFO forged\u{1b}[31m\r\u{202e}\n".as_bytes());
        assert_eq!(line.matches('\n').count(), 1);
        assert!(
            !line.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'),
            "{line:?}"
        );
        assert!(escaped(b"\xff\xfe").chars().all(|c| c == '\u{fffd}'));
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_with_a_hostile_field_is_one_line_in_both_forms() {
        for json in [false, true] {
            let sink = Sink::default();
            let make = {
                let sink = sink.clone();
                move || Line(sink.clone())
            };
            let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(make);
            let hostile = "x\n\u{1b}]0;owned\u{7}\u{202e}";
            let log = || tracing::warn!(name = hostile, shown = %hostile, "hostile {hostile}");
            match json {
                true => tracing::subscriber::with_default(builder.json().flatten_event(true).finish(), log),
                false => tracing::subscriber::with_default(builder.finish(), log),
            }
            let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains('\u{202e}'), "{text:?}");
            assert!(
                !json || serde_json::from_str::<serde_json::Value>(&text).is_ok(),
                "{text:?}"
            );
            assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
        }
    }
}
