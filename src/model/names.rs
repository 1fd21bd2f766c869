//! Which known name a misspelt one was meant to be.

/// Longer names are compared by their beginning: the cost of a comparison is bounded, whatever was sent.
const COMPARED: usize = 64;

/// The nearest of `candidates` to `name` by edit distance, in any case.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name[..name.floor_char_boundary(COMPARED)].to_lowercase();
    candidates.into_iter().min_by_key(|candidate| distance(&name, candidate))
}

/// Edits (insert, delete, replace, swap of neighbours) that lead from one text to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, n) in [("", "", 0), ("a", "", 1), ("form", "from", 1), ("kitten", "sitting", 3), ("é", "e", 1)] {
            assert_eq!(distance(a, b), n, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_name_is_found_in_any_case_and_a_long_name_costs_little() {
        assert_eq!(nearest("Sevrity", ["from", "severity", "sort"]), Some("severity"));
        assert_eq!(nearest("x", []), None);
        assert!(nearest(&"é".repeat(1 << 20), ["from", "to"]).is_some());
    }
}
