// A part of the project that has nothing to do with gqmm, and stays with the project's standard.
static_assert(__cplusplus == 201703L, "gqmm has changed the standard of a target that does not use it");

int main() { return 0; }
