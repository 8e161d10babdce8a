//! Paging of listings that are ordered by name: the token is the last name of the page before.

use mintage_proto::{
    limits::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX},
    v1::Page,
};

/// Rows of a page and the name after which it begins.
pub(crate) fn limit_and_token(page: Option<&Page>) -> (usize, &str) {
    let (limit, token) = page.map_or((0, ""), |page| (page.limit, page.token.as_str()));
    let limit = if limit == 0 {
        PAGE_ROWS_DEFAULT
    } else {
        limit.min(PAGE_ROWS_MAX)
    };
    (limit as usize, token)
}

/// The rows after `token`, at most `limit`, and the token of the next page (empty at the end).
pub(crate) fn cut<T>(
    rows: impl Iterator<Item = T>,
    name: impl Fn(&T) -> String,
    page: Option<&Page>,
) -> (Vec<T>, String) {
    let (limit, token) = limit_and_token(page);
    let mut rows = rows.filter(|row| token.is_empty() || name(row).as_str() > token);
    let taken: Vec<T> = rows.by_ref().take(limit).collect();
    let next = match (rows.next(), taken.last()) {
        (Some(_), Some(last)) => name(last),
        _ => String::new(),
    };
    (taken, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_join_to_the_whole_and_end() {
        let names: Vec<String> = (0..25).map(|n| format!("n{n:02}")).collect();
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let page = Page {
                limit: 10,
                token: token.clone(),
            };
            let (rows, next) = cut(names.iter().cloned(), Clone::clone, Some(&page));
            assert!(rows.len() <= 10);
            all.extend(rows);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(all, names);
    }
}
