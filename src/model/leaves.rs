//! The scalar leaves of a stored object, with their paths: what `metadata.a.b=x` compares, and what is searched.

use super::json::{Kind, Scanner};
use std::borrow::Cow;

/// Takes the path and the text of a leaf.
pub type Visit<'v, 'a> = dyn FnMut(&[Cow<'a, str>], Cow<'a, str>) + 'v;

/// Calls `visit` with the path and the text of each scalar in `json`, in document order.
///
/// The path is the keys from the root, unescaped; array levels have no name. The text of a string is unquoted and
/// unescaped, that of a number is as sent, else it is `true`, `false` or `null`. Empty containers have no leaves.
/// `json` is a stored object; visiting ends where it is no JSON. Iterative, whatever the nesting.
pub fn for_each_leaf<'a>(json: &'a str, visit: &mut Visit<'_, 'a>) {
    let mut scanner = Scanner::new(json, 0);
    let mut path = Vec::new();
    // Which of the open containers are objects; the key of an object's current value is on `path`.
    let mut open: Vec<bool> = Vec::new();
    loop {
        scanner.skip_space();
        match scanner.peek() {
            Some(byte @ (b'{' | b'[')) => {
                scanner.eat(byte);
                scanner.skip_space();
                let object = byte == b'{';
                open.push(object);
                let empty = scanner.peek() == Some(if object { b'}' } else { b']' });
                if !empty {
                    if object && !push_key(&mut scanner, &mut path) {
                        return;
                    }
                    continue;
                }
                if object {
                    path.push(Cow::Borrowed("")); // taken off again where the object closes
                }
            }
            _ => {
                let Ok(value) = scanner.value() else { return };
                let text = if value.kind == Kind::String {
                    value.string()
                } else {
                    Cow::Borrowed(value.raw)
                };
                visit(&path, text);
            }
        }
        // Close what closes here, up to the next value.
        loop {
            scanner.skip_space();
            let Some(object) = open.last().copied() else { return };
            if object {
                path.pop();
            }
            if scanner.eat(b',') {
                scanner.skip_space();
                if object && !push_key(&mut scanner, &mut path) {
                    return;
                }
                break;
            }
            if !scanner.eat(if object { b'}' } else { b']' }) {
                return;
            }
            open.pop();
        }
    }
}

/// Reads a key and its colon, and puts the key on the path; whether they are there.
fn push_key<'a>(scanner: &mut Scanner<'a>, path: &mut Vec<Cow<'a, str>>) -> bool {
    match scanner.string() {
        Ok(key) => path.push(key.string()),
        Err(_) => return false,
    }
    scanner.colon().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(json: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for_each_leaf(json, &mut |path, text| found.push((path.join("/"), text.into_owned())));
        found
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
    }

    #[test]
    fn leaves_have_the_keys_above_them_as_path_and_arrays_have_no_name() {
        let json = r#"{"a":{"b":1.50,"c":[true,{"d":null},[["x"]]],"e":{}},"f":[],"g.h":"q\"\u00e9","":"empty","z":{"y":{"x":-0}}}"#;
        let expected = [
            ("a/b", "1.50"),
            ("a/c", "true"),
            ("a/c/d", "null"),
            ("a/c", "x"),
            ("g.h", "q\"é"),
            ("", "empty"),
            ("z/y/x", "-0"),
        ];
        assert_eq!(leaves(json), pairs(&expected));
        assert_eq!(leaves("{}"), []);
        assert_eq!(
            leaves(" { \"a\" : [ 1 , { } , 2 ] , \"b\" : 3 } "),
            pairs(&[("a", "1"), ("a", "2"), ("b", "3")])
        );
    }

    #[test]
    fn what_is_no_json_ends_the_visit_without_panic() {
        let json = r#"{"a":[1,{"b":"c"},[]],"d":{"e":2}}"#;
        for cut in 0..json.len() {
            leaves(&json[..cut]);
        }
        assert_eq!(leaves(r#"{"a":1,"b":x,"c":3}"#), pairs(&[("a", "1")]));
        leaves(&"[".repeat(100_000));
        leaves(&r#"{"a":"#.repeat(100_000));
    }
}
