//! The known name that a mistyped one was probably meant to be.

/// No known name is longer.
const LONGEST: usize = 100;

/// The candidate that differs from `name` in the fewest letters, if that is few enough to be a slip: a third of its
/// length, and at least one. Upper and lower case are the same here, so that `rootURL` finds `rootUrl`.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing takes the product of the lengths, and names in payloads can be as long as their author likes.
    if name.len() > LONGEST {
        return None;
    }
    let wanted = name.to_lowercase();
    let bound = (wanted.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The number of letters to insert, remove, change or swap with a neighbour.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_another_word_is_not() {
        let known = ["maxRunTime", "command", "env", "artifacts"];
        assert_eq!(nearest("maxRuntime", known), Some("maxRunTime"));
        assert_eq!(nearest("comamnd", known), Some("command"));
        assert_eq!(nearest("artefacts", known), Some("artifacts"));
        assert_eq!(nearest("enf", known), Some("env"));
        assert_eq!(nearest("mounts", known), None);
        assert_eq!(nearest("", known), None);
    }
}
