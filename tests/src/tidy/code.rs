//! Rust text seen roughly: without comments and strings, and without what is compiled for tests alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The text with comments, strings and character literals blanked; lines keep their numbers.
pub fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = blank_end(bytes, at);
        if end > at {
            code.extend(
                bytes[at..end]
                    .iter()
                    .map(|byte| if *byte == b'\n' { '\n' } else { ' ' }),
            );
            at = end;
        } else {
            // Outside literals only ASCII matters to the rules.
            code.push(if bytes[at].is_ascii() {
                char::from(bytes[at])
            } else {
                '?'
            });
            at += 1;
        }
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none begins there.
fn blank_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let prefix = rest
        .iter()
        .take_while(|byte| matches!(byte, b'b' | b'c' | b'r'))
        .count();
    if prefix <= 2 && !in_word {
        let raw = rest[..prefix].contains(&b'r');
        let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
        if raw && rest.get(prefix + hashes) == Some(&b'"') {
            return raw_string_end(bytes, at + prefix + hashes + 1, hashes);
        }
        if prefix > 0 && rest.get(prefix) == Some(&b'"') {
            return quoted_end(bytes, at + prefix + 1, b'"');
        }
    }
    match rest {
        [b'"', ..] => quoted_end(bytes, at + 1, b'"'),
        // A lifetime has no closing quote: 'a' and '\n' are characters, 'a: is not.
        [b'\'', b'\\', ..] => quoted_end(bytes, at + 1, b'\''),
        [b'\'', first, ..] if rest.get(1 + utf8_length(*first)) == Some(&b'\'') => at + 2 + utf8_length(*first),
        _ => at,
    }
}

fn utf8_length(first: u8) -> usize {
    match first {
        0..=0x7f => 1,
        0x80..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    }
}

fn quoted_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], start: usize, hashes: usize) -> usize {
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let found = bytes[start..].windows(close.len()).position(|window| window == close);
    found.map_or(bytes.len(), |offset| start + offset + close.len())
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// What begins an item that is compiled for tests alone.
const TEST_ONLY: [&str; 2] = ["#[cfg(test)]", "#[cfg(all(test"];

/// Code (already without comments and strings) with items for tests alone blanked; lines keep their numbers.
pub fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for mark in TEST_ONLY {
        for (start, _) in code.match_indices(mark) {
            let end = item_end(code.as_bytes(), start);
            bytes[start..end]
                .iter_mut()
                .filter(|byte| **byte != b'\n')
                .for_each(|byte| *byte = b' ');
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of the item whose attribute begins at `start`: its semicolon, or its closing brace.
fn item_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in bytes[start..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return start + offset + 1;
                }
            }
            b';' if depth == 0 => return start + offset + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// The files that `#[cfg(test)] mod name;` in this file brings in, as paths beside it.
pub fn test_only_files(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem().unwrap_or_default();
    let own = if ["lib", "main", "mod"].iter().any(|root| stem == *root) {
        folder.to_path_buf()
    } else {
        folder.join(stem)
    };
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if !TEST_ONLY.iter().any(|mark| line.starts_with(mark)) {
            continue;
        }
        let mut named = None;
        for line in lines.by_ref() {
            if let Some(file) = line
                .strip_prefix("#[path = \"")
                .and_then(|rest| rest.strip_suffix("\"]"))
            {
                named = Some(folder.join(file));
            } else if !line.starts_with('#') {
                let module = line.rsplit_once("mod ").and_then(|(_, rest)| rest.strip_suffix(';'));
                if let Some(module) = module {
                    found.extend(named.take().map_or_else(
                        || vec![own.join(format!("{module}.rs")), own.join(module).join("mod.rs")],
                        |file| vec![file],
                    ));
                }
                break;
            }
        }
    }
    found
}

/// Whether a file is one of these modules, or a module within one.
pub fn belongs_to(modules: &BTreeSet<PathBuf>, path: &Path) -> bool {
    modules.iter().any(|module| {
        let inside = if module.ends_with("mod.rs") {
            module.parent()
        } else {
            None
        };
        path == module || path.starts_with(inside.map_or_else(|| module.with_extension(""), Path::to_path_buf))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let text =
            "a /* x /* y */ z */ b // c\n\"d \\\" e\" f r#\"g \" h\"# i b\"j\" k 'l' m '\\'' n 'o: loop é 'é' p\n";
        let code = without_comments_and_strings(text);
        assert_eq!(code.split_whitespace().collect::<String>(), "abfikmn'o:loop??p");
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn an_open_literal_ends_with_the_text() {
        for open in ["\"abc", "r#\"abc\"", "/* abc", "'\\", "b\"\\"] {
            assert!(without_comments_and_strings(open).trim().is_empty(), "{open}");
        }
    }

    #[test]
    fn what_is_for_tests_alone_is_blank() {
        let code = "fn a() { now() }\n#[cfg(test)]\nmod tests {\n fn b() { {now()} }\n}\nfn c() {}\n#[cfg(test)] mod d;\nfn e() {}";
        let left = without_tests(code);
        assert_eq!(
            left.split_whitespace().collect::<Vec<_>>().join(" "),
            "fn a() { now() } fn c() {} fn e() {}"
        );
        assert_eq!(left.lines().count(), code.lines().count());
    }

    #[test]
    fn modules_within_a_module_belong_to_it() {
        let modules = BTreeSet::from([PathBuf::from("src/a/tests.rs"), "src/b/tests/mod.rs".into()]);
        for inside in [
            "src/a/tests.rs",
            "src/a/tests/x.rs",
            "src/b/tests/mod.rs",
            "src/b/tests/x/y.rs",
        ] {
            assert!(belongs_to(&modules, Path::new(inside)), "{inside}");
        }
        for outside in ["src/a.rs", "src/a/tests_more.rs", "src/b/mod.rs"] {
            assert!(!belongs_to(&modules, Path::new(outside)), "{outside}");
        }
    }

    #[test]
    fn files_for_tests_alone_are_found() {
        let text = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[path = \"odd.rs\"]\npub(crate) mod more;\nmod real;\n";
        let beside = |path: &str| test_only_files(Path::new(path), text);
        assert_eq!(
            beside("src/lib.rs"),
            [
                PathBuf::from("src/tests.rs"),
                "src/tests/mod.rs".into(),
                "src/odd.rs".into()
            ]
        );
        assert_eq!(beside("src/wal.rs")[0], PathBuf::from("src/wal/tests.rs"));
    }
}
