//! How the commands say things: an error in one line, a number with its noun.
//!
//! `mapleaf-tree` is built from this file as well, so that both say them alike.

/// The causes of an error in one line, joined by colons. Many say their cause
/// themselves: what was said is not said again.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        match told.is_empty() {
            true => told = cause,
            false if told.contains(&cause) => {}
            false => told = format!("{told}: {cause}"),
        }
    }
    one_line(&told)
}

/// What clap says in paragraphs as one line, without the usage that `--help` shows
/// better.
pub(crate) fn usage_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let told = rendered
        .split("\n\n")
        .filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more information"));
    let told: Vec<String> = told.map(one_line).collect();
    let line = told.join("; ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// A number with its noun, as in `1 leaf` and `2 leaves`.
pub(crate) fn counted(count: impl Into<u64>, one: &str, many: &str) -> String {
    let count = count.into();
    format!("{count} {}", if count == 1 { one } else { many })
}

/// So many leaves.
pub(crate) fn leaves(count: impl Into<u64>) -> String {
    counted(count, "leaf", "leaves")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_not_said_again() {
        let error = anyhow::anyhow!("no disk").context("cannot write: no disk").context("a\nb");
        assert_eq!(causes(&error), "a b: cannot write: no disk");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0_u64, 1, 2].map(leaves), ["0 leaves", "1 leaf", "2 leaves"]);
        assert_eq!(counted(1_u32, "parent", "parents"), "1 parent");
    }
}
