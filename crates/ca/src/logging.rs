//! Structured logs on stderr: text on a terminal, JSON lines otherwise. `MINTAGE_LOG` sets the level (default `info`).
//! Whatever steers a terminal or turns the direction of text is written out here, for every event: no name, path or
//! peer's text can forge a line, hide one, or reach the terminal of whoever reads it.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Starts logging for this process; a second call changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env("MINTAGE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let form = match io::stderr().is_terminal() {
        true => Form::Text,
        false => Form::Json,
    };
    // No colours: their escape sequences could not be told from a caller's.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Lines(form))
        .with_ansi(false)
        .with_target(false);
    // A subscriber that stands already, as in tests, is kept.
    let _ = match form {
        Form::Text => builder.try_init(),
        Form::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// True for characters that steer a terminal or turn the direction of text.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// One line of text for people: such characters are written out, as `\n` or `\u{1b}`.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// JSON text in which such characters are written as `\uXXXX`: they stand only inside strings there. Line ends stay, for
/// inside strings they are escaped already.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        match steers(c) && c != '\n' {
            // All of them are in the basic plane: one unit each.
            true => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => shown.push(c),
        }
    }
    shown
}

#[derive(Clone, Copy)]
enum Form {
    Text,
    Json,
}

/// Makes a writer for each event; the formatter hands a whole event over in one call.
struct Lines(Form);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Line {
            form: self.0,
            out: io::stderr(),
        }
    }
}

/// Writes one event as one line.
struct Line<W> {
    form: Form,
    out: W,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let body = text.strip_suffix('\n').unwrap_or(&text);
        let line = match self.form {
            Form::Text => printable(body),
            Form::Json => printable_json(body),
        };
        self.out.write_all((line + "\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

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
    fn an_event_with_hostile_fields_is_one_line_in_both_forms() {
        let hostile = "x\n\u{1b}]0;owned\u{7}\u{7f}\u{9b}31m\u{202e}\u{61c}";
        for form in [Form::Text, Form::Json] {
            let sink = Sink::default();
            let out = sink.clone();
            let make = move || Line { form, out: out.clone() };
            let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(make);
            let log = || tracing::warn!(name = hostile, shown = %hostile, "hostile {hostile}");
            match form {
                Form::Json => tracing::subscriber::with_default(builder.json().flatten_event(true).finish(), log),
                Form::Text => tracing::subscriber::with_default(builder.finish(), log),
            }
            let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            let line = text.strip_suffix('\n').unwrap();
            assert!(!line.chars().any(steers), "{line:?}");
            if matches!(form, Form::Json) {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(event["name"], hostile, "what was said is kept");
            }
        }
    }
}
