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

/// A group that is open.
#[derive(Debug)]
pub(super) struct Slot<G> {
    pub(super) group: G,
    /// Whether it differs from what is stored.
    pub(super) changed: bool,
    /// Whether it must stay in memory for another reason.
    pub(super) held: bool,
}

/// A group in memory, or its short form, which is neither changed nor held.
#[derive(Debug)]
pub(super) enum Kept<G> {
    Open(Box<Slot<G>>),
    Packed(Box<[u8]>),
}

impl<G: Group> Kept<G> {
    /// Its place in a map at most 7/8 full, and what the allocator adds.
    const PLACE_BYTES: usize = 56;

    /// The memory of an open one, without what is outside of the group.
    pub(super) const SLOT_BYTES: usize = Self::PLACE_BYTES + size_of::<Slot<G>>();

    pub(super) fn new(group: G) -> Self {
        Self::Open(Box::new(Slot { group, changed: false, held: false }))
    }

    /// Its memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Open(slot) => Self::SLOT_BYTES + slot.group.heap_bytes(),
            Self::Packed(bytes) => Self::PLACE_BYTES + bytes.len(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Open(slot) => slot.group.rows(),
            Self::Packed(bytes) => G::packed_rows(bytes),
        }
    }

    /// Whether it differs from what is stored or has to stay for another reason.
    pub(super) fn is_needed(&self) -> bool {
        matches!(self, Self::Open(slot) if slot.changed || slot.held)
    }

    /// The group, unpacked if need be; `bytes` is the memory of all groups.
    pub(super) fn open(&mut self, start: i64, plans: &mut Plans, bytes: &mut usize) -> &mut Slot<G> {
        if let Self::Packed(packed) = self {
            let opened = Self::new(G::unpack(packed, start, plans).expect("what was packed"));
            self.put(opened, bytes);
        }
        let Self::Open(slot) = self else { unreachable!("it was unpacked") };
        slot
    }

    /// Packs it, unless it is needed or has no short form.
    pub(super) fn pack(&mut self, start: i64, plans: &Plans, bytes: &mut usize) {
        if let Self::Open(slot) = self
            && !(slot.changed || slot.held)
            && let Some(packed) = slot.group.pack(start, plans)
        {
            self.put(Self::Packed(packed), bytes);
        }
    }

    fn put(&mut self, other: Self, bytes: &mut usize) {
        *bytes = *bytes + other.bytes() - self.bytes();
        *self = other;
    }
}
