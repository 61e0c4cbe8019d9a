//! A group of rows in memory: open, or packed to a few bytes.

use crate::intern::Plans;

/// The rows of one key.
pub(crate) trait Group: Sized {
    /// Whether there is always one row: then no group is fetched from memory only to ask.
    const ONE_ROW: bool = false;

    /// How many rows there are.
    fn rows(&self) -> usize;
    /// Memory outside of `Self`, in bytes.
    fn heap_bytes(&self) -> usize;

    /// Reads what adding an event to the group reads, as far as it lies outside of `Self` or is far apart in it; the answer
    /// means nothing.
    fn fetch(&self) -> u64 {
        0
    }

    /// A short form of a group of the window that begins at `start`. By default there is none.
    fn pack(&self, _start: i64, _plans: &Plans) -> Option<Box<[u8]>> {
        None
    }

    /// How many rows were packed to these bytes.
    fn packed_rows(_packed: &[u8]) -> usize {
        0
    }

    /// The group that was packed to these bytes; `None` where it was none.
    fn unpack(_packed: &[u8], _start: i64, _plans: &mut Plans) -> Option<Self> {
        None
    }
}

/// A group in memory, open or as its short form.
#[derive(Debug)]
enum Form<G> {
    Open(Box<G>),
    Packed(Box<[u8]>),
}

/// The rows of one key, and what is known of them.
#[derive(Debug)]
pub(super) struct Kept<G> {
    form: Form<G>,
    /// Whether they differ from what is stored.
    pub(super) changed: bool,
    /// Whether they must stay in memory, open, for another reason.
    pub(super) held: bool,
}

/// The memory of groups, in bytes.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) all: usize,
    /// That of groups that differ from what is stored.
    pub(super) changed: usize,
}

impl<G: Group> Kept<G> {
    /// Its place in a map at most 7/8 full, and what the allocator adds.
    const PLACE_BYTES: usize = 64;

    pub(super) fn new(group: G) -> Self {
        Self { form: Form::Open(Box::new(group)), changed: false, held: false }
    }

    /// Its memory.
    pub(super) fn bytes(&self) -> usize {
        Self::PLACE_BYTES
            + match &self.form {
                Form::Open(group) => size_of::<G>() + group.heap_bytes(),
                Form::Packed(bytes) => bytes.len(),
            }
    }

    pub(super) fn rows(&self) -> usize {
        match &self.form {
            Form::Open(group) => group.rows(),
            Form::Packed(bytes) => G::packed_rows(bytes),
        }
    }

    /// The group, where it is not packed.
    pub(super) fn opened(&self) -> Option<&G> {
        match &self.form {
            Form::Open(group) => Some(group),
            Form::Packed(_) => None,
        }
    }

    /// The group, unpacked if need be.
    pub(super) fn open(&mut self, start: i64, plans: &mut Plans, memory: &mut Memory) -> &mut G {
        if let Form::Packed(packed) = &self.form {
            let group = unpacked(packed, start, plans);
            self.put(Form::Open(Box::new(group)), memory);
        }
        let Form::Open(group) = &mut self.form else { unreachable!("it was unpacked") };
        group
    }

    /// Shows the group and its short form, if it is packed, and leaves it as it is.
    pub(super) fn show<T>(&self, start: i64, plans: &mut Plans, see: impl FnOnce(&G, Option<&[u8]>, &Plans) -> T) -> T {
        match &self.form {
            Form::Open(group) => see(group, None, plans),
            Form::Packed(packed) => see(&unpacked(packed, start, plans), Some(packed), plans),
        }
    }

    /// Packs it, unless it is held or has no short form.
    pub(super) fn pack(&mut self, start: i64, plans: &Plans, memory: &mut Memory) {
        if let Form::Open(group) = &self.form
            && !self.held
            && let Some(packed) = group.pack(start, plans)
        {
            self.put(Form::Packed(packed), memory);
        }
    }

    fn put(&mut self, form: Form<G>, memory: &mut Memory) {
        let before = self.bytes();
        self.form = form;
        memory.all = memory.all + self.bytes() - before;
        if self.changed {
            memory.changed = (memory.changed + self.bytes()).saturating_sub(before);
        }
    }
}

fn unpacked<G: Group>(packed: &[u8], start: i64, plans: &mut Plans) -> G {
    G::unpack(packed, start, plans).expect("what was packed")
}
