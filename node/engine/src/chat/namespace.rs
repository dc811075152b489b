//! Jinja's `namespace`, of values that end somewhere.
//!
//! minijinja's own may hold itself, or a list that holds the last one, as often as a loop goes round: who prints,
//! compares or drops that takes more stack than there is, and the process ends. This one holds copies. So a template's
//! `{% set ns.field = value %}`, which minijinja has for its own alone, becomes a call ([`assignment`]).

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Enumerator, Object, ValueKind, ValueOrKwargs},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Deepest nesting of a value that is held.
const DEPTH_MAX: usize = 64;
/// What a template calls to set a field.
const SET: &str = "onebyte_set";

#[derive(Debug)]
struct Namespace(Mutex<BTreeMap<String, Value>>);

impl Namespace {
    fn fields(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object for Namespace {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.fields().get(key.as_str()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.fields().keys().map(|name| Value::from(name.as_str())).collect())
    }

    fn call_method(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        method: &str,
        arguments: &[Value],
    ) -> Result<Value, Error> {
        let (SET, [name, value]) = (method, arguments) else { return Err(Error::from(ErrorKind::UnknownMethod)) };
        let value = copy(state, value, 0)?;
        self.fields().extend(name.as_str().map(|name| (name.to_owned(), value)));
        Ok(Value::UNDEFINED)
    }
}

/// The function `namespace`: with the fields of an object, or of arguments with names.
///
/// # Errors
/// A field cannot be held, or the template's fuel is used up.
pub fn namespace(state: &State, fields: Option<ValueOrKwargs>) -> Result<Value, Error> {
    let mut held = BTreeMap::new();
    if let Some(fields) = fields.map(ValueOrKwargs::into_value) {
        for key in fields.try_iter()? {
            if let Some(name) = key.as_str() {
                held.insert(name.to_owned(), copy(state, &fields.get_item(&key)?, 0)?);
            }
        }
    }
    Ok(Value::from_object(Namespace(Mutex::new(held))))
}

/// The value in lists and maps of its own.
fn copy(state: &State, value: &Value, depth: usize) -> Result<Value, Error> {
    state.consume_fuel(1)?;
    let refused = |why: &str| Err(Error::new(ErrorKind::InvalidOperation, format!("a namespace holds no {why}")));
    if depth > DEPTH_MAX {
        return refused("value that is nested so deeply");
    }
    match value.kind() {
        ValueKind::Map => {
            let pairs = value.try_iter()?.map(|key| -> Result<(Value, Value), Error> {
                let item = copy(state, &value.get_item(&key)?, depth + 1)?;
                Ok((copy(state, &key, depth + 1)?, item))
            });
            Ok(Value::from_pairs(pairs.collect::<Result<Vec<_>, Error>>()?))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| copy(state, &item, depth + 1));
            Ok(Value::from(items.collect::<Result<Vec<Value>, Error>>()?))
        }
        ValueKind::Plain => refused("object of this kind"),
        _ => Ok(value.clone()),
    }
}

/// What stands in a tag `set ns.field = value`, as the call that sets the field; None if the tag is another.
pub fn assignment(tag: &str) -> Option<String> {
    let statement = tag.trim_start_matches(['-', '+']).trim_start();
    let before = &tag[..tag.len() - statement.len()];
    let inner = statement.trim_end_matches(['-', '+']);
    let after = &statement[inner.len()..];
    let (target, value) = inner.strip_prefix("set")?.split_once('=')?;
    let (holder, field) = target.rsplit_once('.')?;
    let (holder, field) = (holder.trim(), field.trim());
    let is_name = |name: &str| name.chars().all(|character| character.is_alphanumeric() || character == '_');
    (target.starts_with(char::is_whitespace) && holder.split('.').all(is_name) && is_name(field))
        .then(|| format!("{before}set {SET} = {holder}.{SET}(\"{field}\", ({value})){after}"))
}
