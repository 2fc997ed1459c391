//! The function every bound value passes (see screen.rs): it refuses values that are nested too deeply or too large,
//! and turns the engine's lazy lists (slices, sums, filters) into plain ones, as Python's are.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use crate::counted::{known, List, Size};

const MAX_HEIGHT: usize = 200; // more than a parsed context has
const MAX_NODES: usize = 10_000_000;
const WALKED_PER_FUEL: usize = 16;

pub fn checked(state: &State, value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Iterable => {
            let (mut items, mut size) = (Vec::new(), Size::LEAF);
            let mut walker = Walker { state, walked: 0 };
            for item in value.try_iter()?.checked() {
                let item = item?;
                size.hold(walker.size(&item, 1)?);
                check(size)?;
                items.push(item);
            }
            Ok(Value::from_object(List { items, size }))
        }
        ValueKind::Seq | ValueKind::Map => {
            check(Walker { state, walked: 0 }.size(value, 0)?)?;
            Ok(value.clone())
        }
        _ => Ok(value.clone()),
    }
}

fn check(size: Size) -> Result<(), Error> {
    if size.height > MAX_HEIGHT || size.nodes > MAX_NODES {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is too large or nested too deeply"));
    }
    Ok(())
}

struct Walker<'a, 't, 'e> {
    state: &'a State<'t, 'e>,
    walked: usize,
}

impl Walker<'_, '_, '_> {
    fn size(&mut self, value: &Value, depth: usize) -> Result<Size, Error> {
        self.walked += 1;
        if self.walked % WALKED_PER_FUEL == 0 {
            self.state.consume_fuel(1)?;
        }
        if let Some(size) = known(value) {
            return Ok(size);
        }
        let mut size = Size::LEAF;
        check(Size { nodes: 1, height: depth })?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()?.checked() {
                    size.hold(self.size(&item?, depth + 1)?);
                    check(size)?;
                }
            }
            ValueKind::Map => {
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    size.hold(self.size(&key, depth + 1)?);
                    size.hold(self.size(&value.get_item(&key)?, depth + 1)?);
                    check(size)?;
                }
            }
            _ => {}
        }
        Ok(size)
    }
}
