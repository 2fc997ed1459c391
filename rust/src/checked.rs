//! The function every bound value passes (see screen.rs): it refuses values that are nested too deeply or too large, and turns the
//! engine's lazy lists (slices, sums, filters) into plain ones, as Python's are.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

const MAX_DEPTH: usize = 100;
const MAX_NODES: usize = 1_000_000; // values in a value, counted as often as they are reachable
const NODES_PER_FUEL: usize = 64;

pub fn checked(state: &State, value: &Value) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Iterable => list(state, value)?,
        ValueKind::Seq | ValueKind::Map => value.clone(),
        _ => return Ok(value.clone()),
    };
    let mut nodes = 0;
    count(&value, 0, &mut nodes)?;
    state.consume_fuel((nodes / NODES_PER_FUEL) as u64)?;
    Ok(value)
}

fn list(state: &State, value: &Value) -> Result<Value, Error> {
    let mut items = Vec::new();
    for item in value.try_iter()?.checked() {
        if items.len() % NODES_PER_FUEL == 0 {
            state.consume_fuel(1)?;
        }
        items.push(item?);
    }
    Ok(Value::from(items))
}

fn count(value: &Value, depth: usize, nodes: &mut usize) -> Result<(), Error> {
    *nodes += 1;
    if depth > MAX_DEPTH || *nodes > MAX_NODES {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is too large or nested too deeply"));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()?.checked() {
                count(&item?, depth + 1, nodes)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()?.checked() {
                let key = key?;
                count(&key, depth + 1, nodes)?;
                count(&value.get_item(&key)?, depth + 1, nodes)?;
            }
        }
        _ => {}
    }
    Ok(())
}
