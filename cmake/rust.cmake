# The Rust text library (rust/): tokenizers and chat templates behind a C ABI, built by cargo into one static library.
find_program(CARGO cargo REQUIRED)
set(OPTIQ_RUST_LIB ${CMAKE_SOURCE_DIR}/build/rust/release/liboptiq_text.a)
file(GLOB_RECURSE OPTIQ_RUST_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/rust/src/*.rs)
# All presets share one cargo target directory: the Rust side is always built in release mode, without sanitizers.
add_custom_command(
  OUTPUT ${OPTIQ_RUST_LIB}
  COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${CMAKE_SOURCE_DIR}/build/rust ${CARGO} build --release --locked
          --manifest-path ${CMAKE_SOURCE_DIR}/rust/Cargo.toml
  COMMAND ${CMAKE_COMMAND} -E touch ${OPTIQ_RUST_LIB}  # cargo leaves the time stamp alone when nothing changed
  DEPENDS ${OPTIQ_RUST_SOURCES} ${CMAKE_SOURCE_DIR}/rust/Cargo.toml ${CMAKE_SOURCE_DIR}/rust/Cargo.lock
  VERBATIM USES_TERMINAL)
add_custom_target(optiq_rust_build DEPENDS ${OPTIQ_RUST_LIB})
add_library(optiq_rust STATIC IMPORTED GLOBAL)
set_target_properties(optiq_rust PROPERTIES IMPORTED_LOCATION ${OPTIQ_RUST_LIB})
target_include_directories(optiq_rust INTERFACE ${CMAKE_SOURCE_DIR}/rust/include)
target_link_libraries(optiq_rust INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
add_dependencies(optiq_rust optiq_rust_build)
