//! Licence expressions as crates write them, held against an allow-list.

/// Whether the expression can be satisfied with allowed licences alone: one side of an `OR`, both of an `AND`.
///
/// The old `A/B` form counts as `OR`. What cannot be read is not allowed.
pub fn allowed(expression: &str, allow: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, allow };
    parser.either() == Some(true) && parser.words.is_empty()
}

struct Parser<'a> {
    words: &'a [&'a str],
    allow: &'a [String],
}

impl<'a> Parser<'a> {
    fn either(&mut self) -> Option<bool> {
        let mut holds = self.both()?;
        while self.take("OR") {
            holds |= self.both()?;
        }
        Some(holds)
    }

    fn both(&mut self) -> Option<bool> {
        let mut holds = self.one()?;
        while self.take("AND") {
            holds &= self.one()?;
        }
        Some(holds)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let holds = self.either()?;
            return self.take(")").then_some(holds);
        }
        let name = self.word()?.to_owned();
        let name = if self.take("WITH") {
            format!("{name} WITH {}", self.word()?)
        } else {
            name
        };
        // "or any later version" includes this one.
        let name = name.trim_end_matches('+');
        Some(self.allow.iter().any(|allowed| allowed == name))
    }

    fn word(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        (!["AND", "OR", "WITH", "(", ")"].contains(first)).then_some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        match self.words.split_first() {
            Some((first, rest)) if *first == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(expression: &str) -> bool {
        allowed(
            expression,
            &[
                "MIT".to_owned(),
                "Zlib".to_owned(),
                "Apache-2.0 WITH LLVM-exception".to_owned(),
            ],
        )
    }

    #[test]
    fn what_can_be_satisfied_is_allowed() {
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "Unlicense/MIT",
            "MIT AND Zlib",
            "(GPL-3.0 OR MIT) AND Zlib",
            "Zlib+",
        ] {
            assert!(holds(good), "{good}");
        }
        assert!(holds("Apache-2.0 WITH LLVM-exception OR GPL-3.0"));
    }

    #[test]
    fn what_cannot_be_satisfied_or_read_is_refused() {
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "Apache-2.0",
            "",
            "MIT OR",
            "(MIT",
            "MIT MIT",
            "MIT)",
            "WITH MIT",
            "OR",
        ] {
            assert!(!holds(bad), "{bad}");
        }
    }
}
