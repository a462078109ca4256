//! Variables inside a scalar: `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`.

/// The fault of one variable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VariableFault {
    /// Its text in the scalar, to find its place.
    pub token: String,
    pub message: String,
    pub help: Option<String>,
}

/// How a variable is written, for errors.
const FORMS: &str = "allowed: `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, and `$$` for a dollar sign";

/// The scalar with its variables replaced by their values or their defaults. An empty variable
/// counts as one without a value, as for `:-` and `:?` in a shell.
pub(super) fn resolve(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Vec<VariableFault>> {
    let mut out = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(behind) = behind.strip_prefix('$') {
            out.push('$');
            rest = behind;
        } else if let Some((inside, behind)) = behind.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            match variable(inside, env) {
                Ok(value) => out.push_str(&value),
                Err(fault) => faults.push(fault),
            }
            rest = behind;
        } else {
            let message = match behind.starts_with('{') {
                true => "a variable has no closing `}`",
                false => "a `$` that does not begin a variable",
            };
            faults.push(malformed("$", message.to_owned()));
            rest = behind;
        }
    }
    out.push_str(rest);
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

/// The value of the text between the braces.
fn variable(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, VariableFault> {
    let end = inside.find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let (name, modifier) = inside.split_at_checked(end.unwrap_or(inside.len())).unwrap_or((inside, ""));
    let token = format!("${{{name}");
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(malformed("${", "the name of a variable has letters, digits and `_`".to_owned()));
    }
    if inside.contains("${") {
        return Err(malformed(
            &token,
            format!("the variable `{name}` contains another variable, which is not replaced"),
        ));
    }
    let value = env(name).filter(|value| !value.is_empty());
    if modifier.is_empty() {
        let help = Some(format!("set it, or give a default: `${{{name}:-default}}`"));
        return value.ok_or(VariableFault { token, message: format!("the variable `{name}` has no value"), help });
    }
    if let Some(default) = modifier.strip_prefix(":-") {
        return Ok(value.unwrap_or_else(|| default.to_owned()));
    }
    match modifier.strip_prefix(":?") {
        Some(reason) => {
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            let message = format!("the variable `{name}` has no value{reason}");
            value.ok_or(VariableFault { token, message, help: None })
        }
        None => Err(malformed(&token, format!("the variable `{name}` has a wrong form"))),
    }
}

fn malformed(token: &str, message: String) -> VariableFault {
    VariableFault { token: token.to_owned(), message, help: Some(FORMS.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<String, Vec<String>> {
        let env = |name: &str| match name {
            "HOST" => Some("zk1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        resolve(text, &env).map_err(|faults| faults.into_iter().map(|fault| fault.message).collect())
    }

    #[test]
    fn a_variable_is_replaced_by_its_value_or_its_default() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("${HOST}", "zk1"),
            ("${HOST}:2181,${HOST}:2182", "zk1:2181,zk1:2182"),
            ("${HOST:-other}", "zk1"),
            ("${NONE:-127.0.0.1:2181}", "127.0.0.1:2181"),
            ("${NONE:-}", ""),
            ("${EMPTY:-default}", "default"),
            ("${HOST:?needed}", "zk1"),
            ("a$$b", "a$b"),
            ("$${HOST}", "${HOST}"),
            ("$$$$", "$$"),
            ("${NONE:-a$$b}", "a$$b"),
        ] {
            assert_eq!(resolved(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_variable_without_a_value_or_form_is_a_fault_and_all_are_told() {
        for (text, expected) in [
            ("${NONE}", "the variable `NONE` has no value"),
            ("${EMPTY}", "the variable `EMPTY` has no value"),
            ("${NONE:?say where it is}", "the variable `NONE` has no value: say where it is"),
            ("${NONE:?}", "the variable `NONE` has no value"),
            ("${HOST", "a variable has no closing `}`"),
            ("${}", "the name of a variable has letters, digits and `_`"),
            ("${1}", "the name of a variable has letters, digits and `_`"),
            ("${HOST-x}", "the variable `HOST` has a wrong form"),
            ("$HOST", "a `$` that does not begin a variable"),
            ("costs 5$", "a `$` that does not begin a variable"),
            ("${A:-${B}}", "the variable `A` contains another variable, which is not replaced"),
        ] {
            assert_eq!(resolved(text), Err(vec![expected.to_owned()]), "{text}");
        }
        assert_eq!(resolved("${A}${B}").map_err(|faults| faults.len()), Err(2));
    }
}
