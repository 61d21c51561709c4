"""AMD's audit of its machine-readable ISA against the manual (ROCm/rocm-systems, rocjitsu, cdna4-manual-vs-xml.md).

Each of the 92 items with the tests that pin what the manual says, or why it does not concern the emulator.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """What the machine-readable ISA leaves out; ``file::test`` names; what is left out of the emulator, and why."""

    subject: str
    tests: tuple[str, ...] = ()
    outside: str = ""


def _item(subject: str, *tests: str, outside: str = "") -> Item:
    return Item(subject, tests, outside)


_SWEEP = "test_isa_differential::test_vector_opcodes"
_TIMING = "wait states and forwarding: instructions of the emulator see every result of those before them"
_LEGALITY = "which encodings an assembler accepts; the emulator runs them all"

ITEMS: dict[int, Item] = {
    1: _item(
        "values of fp8, bf8, fp6, bf6 and fp4",
        "test_fp8::test_reference_agrees_with_ml_dtypes",
        "test_fp8::test_every_code_widens_exactly_from_every_selected_byte_and_word",
        "test_fp8::test_scaled_widening_multiplies_every_code",
        "test_fp8::test_32_values_widen_from_six_registers",
    ),
    2: _item(
        "FP16_OVFL",
        "test_fp8::test_narrowing_rounds_to_nearest_even_and_overflows_by_the_mode",
        "test_fp8::test_scaled_narrowing_of_two_divides_and_rounds_once",
        outside="SH_MEM_CONFIG bit 8: drivers set it, and waves cannot read it",
    ),
    3: _item("conversions to fp8 take VGPRs only", outside=_LEGALITY),
    4: _item(
        "byte and word selection of the widening conversions",
        "test_fp8::test_every_code_widens_exactly_from_every_selected_byte_and_word",
        "test_fp8::test_scaled_widening_of_one_selects_byte_and_half",
    ),
    5: _item(
        "partial destinations of the narrowing conversions",
        "test_fp8::test_narrowing_rounds_to_nearest_even_and_overflows_by_the_mode",
        "test_fp8::test_stochastic_rounding_adds_the_top_random_bits_and_keeps_the_other_bytes",
        "test_fp8::test_stochastic_rounding_to_16_bits_on_gfx950",
        "test_fp8::test_scaled_narrowing_of_two_divides_and_rounds_once",
        "test_fp8::test_scaled_stochastic_narrowing",
    ),
    6: _item(
        "scaled conversions",
        "test_fp8::test_scaled_narrowing_of_two_divides_and_rounds_once",
        "test_fp8::test_scaled_stochastic_narrowing",
        "test_fp8::test_scaled_widening_multiplies_every_code",
        "test_fp8::test_32_values_narrow_to_six_registers",
    ),
    7: _item("forwarding of the fp8 conversions", outside=_TIMING),
    8: _item("OPSEL_HI of source 2", "test_vop3p::test_packed_halves_round_once_under_every_selection", _SWEEP),
    9: _item(
        "packed 32-bit operands and v_pk_mov",
        "test_vop3p::test_packed_f32_select_registers_of_the_pairs",
        "test_vop3p::test_packed_move_takes_one_register_of_each_pair",
    ),
    10: _item("fma_mix selectors", "test_vop3p::test_fma_mix_selectors_modifiers_and_partial_destinations", _SWEEP),
    11: _item(
        "scaled MFMA",
        "test_mfma_scaled::test_scales_belong_to_32_values_of_k_of_one_row_or_column",
        "test_mfma_scaled::test_extreme_scales_do_not_overflow_before_they_meet",
        "test_mfma_scaled::test_random_values_agree_with_float64_and_scale_one_changes_nothing",
    ),
    12: _item(
        "byte selection of scales",
        "test_mfma_scaled::test_scales_belong_to_32_values_of_k_of_one_row_or_column",
    ),
    13: _item(
        "f8f6f4 formats and modifiers",
        "test_mfma_scaled::test_every_pair_of_formats_multiplies_exactly",
        "test_mfma_scaled::test_prefix_modifiers_of_c",
        "test_mfma_scaled::test_operands_in_accvgprs_in_place_and_under_any_exec",
        "test_mfma_scaled::test_reserved_formats_are_refused",
    ),
    14: _item(
        "dense MFMA: layouts, EXEC, AccVGPRs",
        "test_mfma::test_integers_multiply_exactly_from_vgprs_and_accvgprs_in_every_combination",
        "test_mfma::test_random_values_agree_with_float64",
        "test_mfma::test_exec_is_ignored",
        "test_mfma::test_inline_constants_stand_for_every_element_of_c",
        "test_mfma::test_result_replaces_the_addend_in_place_and_may_overlap_it",
        outside="cycles: the timing model's",
    ),
    15: _item(
        "broadcasts, lane groups and negation of f64",
        "test_mfma::test_cbsz_and_abid_read_a_from_one_chunk_of_lanes",
        "test_mfma::test_blgp_permutes_the_lane_groups_of_b",
        "test_mfma::test_undefined_broadcasts_are_refused",
        "test_mfma::test_f64_products_with_negation_and_constants",
    ),
    16: _item(
        "sparse MFMA",
        "test_mfma::test_unimplemented_matrix_instructions_are_refused_by_name",
        "test_isa_control::test_refused_instructions_name_themselves",
        outside="refused by name",
    ),
    17: _item("wait states of matrix instructions", outside=_TIMING),
    18: _item(
        "denormals in MFMA",
        "test_mfma::test_only_f32_inputs_honour_the_denormal_mode",
        "test_mfma::test_infinities_nans_zeros_and_denormals_follow_ieee",
        "test_mfma::test_bytes_wrap_around_in_32_bits",
        outside="exceptions: no traps",
    ),
    19: _item(
        "SMEM addresses and bounds",
        "test_memory_scalar::test_loads_and_stores",
        "test_memory_scalar::test_buffers",
        "test_memory_faults::test_scalar_accesses_are_checked",
        outside="counters and clauses: loads are complete at once",
    ),
    20: _item("scalar atomics return with glc only", "test_memory_scalar::test_atomics"),
    21: _item("offsets of buffers", "test_memory_buffer::test_loads", "test_memory_buffer::test_stores"),
    22: _item(
        "buffer resources: ranges, swizzles, unbound ones",
        "test_memory_buffer::test_loads",
        "test_memory_buffer::test_stores",
        "test_memory_buffer::test_a_dword_that_is_partly_in_range_counts_as_outside",
    ),
    23: _item(
        "formats, D16, dst_sel",
        "test_memory_format::test_format_loads",
        "test_memory_format::test_format_stores",
        "test_memory_faults::test_formats_that_do_not_exist",
    ),
    24: _item(
        "buffer loads into LDS; cache control",
        "test_memory_buffer::test_loads_into_lds",
        "test_memory_buffer::test_cache_control_does_nothing",
    ),
    25: _item(
        "buffer atomics read their data and return with sc0 only",
        "test_memory_buffer::test_integer_atomics",
        "test_memory_buffer::test_float_atomics",
    ),
    26: _item(
        "addresses of FLAT, GLOBAL and SCRATCH",
        "test_memory_flat::test_flat_apertures",
        "test_memory_flat::test_the_aperture_registers_give_flat_pointers",
        "test_memory_flat::test_scratch",
        "test_memory_global::test_global_loads",
        "test_memory_faults::test_flat_addresses_outside_every_aperture",
    ),
    27: _item(
        "loads from memory to LDS",
        "test_memory_global::test_global_loads_into_lds",
        "test_memory_flat::test_scratch_loads_into_lds",
    ),
    28: _item("wait counters of FLAT", outside=_TIMING),
    29: _item(
        "float atomics of memory",
        "test_memory_global::test_float_atomics",
        "test_memory_global::test_packed_float_atomics",
    ),
    30: _item("NV of FLAT", outside="the format has no such bit"),
    31: _item(
        "which operand ACC means",
        "test_isa_audit_state::test_memory_data_may_be_in_accumulation_registers",
        "test_memory_lds::test_accumulation_registers",
    ),
    32: _item(
        "LDS: banks, bounds",
        "test_memory_banks::test_conflict_cycles",
        "test_memory_lds::test_reads",
        "test_memory_lds::test_writes",
        "test_code_objects::test_all_the_lds_there_is",
        outside="M0 as a bound: compilers for GFX9 and later do not set it",
    ),
    33: _item(
        "addresses of DS",
        "test_memory_lds::test_two_address_forms",
        "test_memory_lds::test_addtid",
        "test_isa_audit_state::test_equal_offsets_of_a_pair_write_once",
    ),
    34: _item(
        "swizzles and permutes",
        "test_memory_lanes::test_permutes",
        "test_memory_lanes::test_swizzle_modes",
        "test_memory_lanes::test_swizzle_examples_of_the_manual",
    ),
    35: _item(
        "float atomics of the LDS",
        "test_memory_lds::test_float_atomics",
        "test_memory_lds::test_packed_float_atomics",
        "test_memory_lds::test_float_atomic_special_values",
        "test_memory_lds::test_denormals_follow_the_mode_register",
    ),
    36: _item(
        "transposing reads",
        "test_memory_lanes::test_transposing_reads",
        "test_memory_faults::test_transposing_reads_need_whole_blocks_and_alignment",
    ),
    37: _item("the GDS bit", "test_memory_faults::test_gds_is_refused"),
    38: _item(
        "STATUS and MODE",
        "test_isa_audit_state::test_status_register_summarises_scc_exec_and_vcc",
        "test_isa_control::test_hardware_registers_are_read_and_written_by_field",
    ),
    39: _item(
        "registers out of range",
        outside="every wave has all registers: the size that a descriptor declares is not believed (issue 4)",
    ),
    40: _item(
        "SCC, VCC, VCCZ and EXECZ",
        "test_isa_audit_state::test_flags_as_operands_follow_every_write",
        "test_isa_differential::test_scalar_opcodes",
    ),
    41: _item(
        "launch state, memory violations",
        "test_code_objects::test_work_item_ids_and_partial_waves",
        "test_code_objects::test_workgroup_ids",
        "test_code_objects::test_a_wild_address_names_everything",
        outside="trap handlers and their registers: a fault ends the launch",
    ),
    42: _item(
        "forks and joins, calls, debug branches",
        "test_isa_control::test_fork_and_join_run_both_sides_the_smaller_first",
        "test_isa_control::test_program_counters_of_calls_and_returns",
        "test_isa_control::test_branches_are_taken_and_not_taken",
    ),
    43: _item(
        "barriers",
        "test_code_objects::test_barriers_join_the_waves_of_a_group",
        "test_isa_audit_state::test_a_scalar_call_returns_to_the_word_after_it_and_sixteen_waves_form_a_group",
        outside="waves that have ended satisfy a barrier on hardware; here it is an error (issue 4)",
    ),
    44: _item("wait counters", outside=_TIMING),
    45: _item("wait states", outside=_TIMING),
    46: _item(
        "reserved scalar sources",
        "test_isa_audit_state::test_reserved_scalar_sources_are_refused",
        outside="SGPRs out of range: see item 39",
    ),
    47: _item(
        "SCC of signed sums",
        "test_isa_audit_state::test_signed_scalar_sums_report_overflow_and_unsigned_ones_the_carry",
    ),
    48: _item(
        "SCC of equal maxima",
        "test_isa_audit_state::test_scalar_maximum_of_equal_operands_sets_scc_and_the_minimum_clears_it",
    ),
    49: _item("s_movrel", "test_isa_control::test_movrel_adds_m0_to_the_register_number"),
    50: _item(
        "the hardware registers there are",
        "test_isa_audit_state::test_reserved_hardware_registers_are_refused",
        "test_isa_control::test_hardware_registers_are_read_and_written_by_field",
    ),
    51: _item(
        "what s_setreg may write",
        "test_isa_audit_state::test_writes_to_read_only_hardware_registers_are_dropped",
        "test_isa_control::test_hardware_registers_are_read_and_written_by_field",
    ),
    52: _item("how many scalars a vector instruction reads", outside=_LEGALITY),
    53: _item("results of SDWA and OPSEL in the next instruction", outside=_TIMING),
    54: _item("output modifiers", "test_isa_mode::test_output_multiplier_applies_only_without_ieee_and_denormals"),
    55: _item(
        "rounding and denormal modes, and what ignores them",
        "test_isa_mode::test_rounding_modes",
        "test_isa_mode::test_denormal_modes_flush_inputs_and_outputs",
        "test_isa_audit::test_packed_narrowing_rounds_to_nearest_even_in_every_mode",
        "test_fp8::test_narrowing_ignores_the_rounding_mode",
        "test_vop3p::test_float_dot_products_add_in_the_published_order_and_flush_denormals",
    ),
    56: _item(
        "clamp of integers, floats and comparisons",
        "test_isa_audit::test_clamp_saturates_integers",
        "test_isa_audit::test_clamp_does_not_change_comparisons",
        "test_isa_mode::test_clamp_makes_nan_zero_only_under_dx10_clamp",
        "test_vop3p::test_packed_integers_wrap_and_saturate_under_clamp",
    ),
    57: _item(
        "register indexing",
        "test_isa_audit::test_only_the_destination_bit_moves_an_accumulator_under_register_indexing",
        "test_isa_control::test_register_indexing_moves_the_operands_that_its_mode_names",
    ),
    58: _item("s_atc_probe", "test_memory_scalar::test_cache_instructions_do_nothing"),
    59: _item(
        "s_endpgm_ordered_ps_done, s_set_valu_coexec_mode",
        "test_isa_control::test_programmes_end_where_they_say",
        outside="s_set_valu_coexec_mode: no manual and no LLVM knows it",
    ),
    60: _item("s_rfe_restore", "test_isa_control::test_refused_instructions_name_themselves", outside="no traps"),
    61: _item(
        "operands of s_set_gpr_idx_on",
        "test_isa_audit_state::test_index_mode_is_four_raw_bits_and_the_index_may_be_a_literal",
    ),
    62: _item("SBASE counts bytes", "test_memory_scalar::test_loads_and_stores", "test_memory_scalar::test_buffers"),
    63: _item("float atomics of buffers", "test_memory_buffer::test_float_atomics"),
    64: _item(
        "NaNs and zeros of minimum and maximum",
        "test_isa_mode::test_ieee_mode_quiets_signalling_nans_of_minimum_and_maximum",
        _SWEEP,
    ),
    65: _item(
        "modifiers of v_dot2c_f32_bf16",
        "test_isa_audit::test_modifiers_of_bf16_dot_products_do_not_reach_the_addend",
    ),
    66: _item(
        "half destinations of VOP2",
        "test_isa_audit::test_16_bit_results_keep_or_clear_the_other_half",
        "test_isa_audit::test_half_literal_forms_clear_the_high_half",
    ),
    67: _item("instructions without modifiers", outside=_LEGALITY),
    68: _item(
        "v_exp_legacy, v_log_legacy, v_screen_partition",
        _SWEEP,
        "test_isa_control::test_refused_instructions_name_themselves",
        outside="v_screen_partition: refused by name, nothing describes it",
    ),
    69: _item(
        "VOP1 opcodes as VOP3",
        "test_decoder::test_every_row_decodes_to_itself",
        "test_decoder::test_rows_belong_to_the_gpus_that_llvm_gives_them",
    ),
    70: _item(
        "v_readfirstlane without lanes",
        "test_isa_audit::test_lane_moves_ignore_exec_and_the_high_bits_of_the_lane",
    ),
    71: _item(
        "swaps read and write both",
        "test_isa_audit::test_swaps_read_and_write_both_registers",
        "test_isa_audit::test_row_swaps_exchange_odd_rows_with_even_ones",
    ),
    72: _item(
        "v_cvt_off, v_fract, v_prng",
        "test_isa_audit::test_lookup_table_fraction_and_random_numbers",
        outside="exceptions of v_rcp_iflag: no traps",
    ),
    73: _item("DPP of comparisons", "test_isa_audit::test_comparisons_take_dpp_operands"),
    74: _item(
        "predicates and classes",
        "test_isa_audit::test_class_bits",
        "test_isa_audit::test_negated_comparisons_are_true_for_nans",
        _SWEEP,
    ),
    75: _item("names in the manual's short tables", outside="misprints; the names are LLVM's (test_decoder)"),
    76: _item(
        "modifiers of v_dot2_f32_bf16",
        "test_isa_audit::test_modifiers_of_bf16_dot_products_do_not_reach_the_addend",
    ),
    77: _item(
        "packed minimum3 and maximum3",
        "test_isa_audit::test_minimum3_propagates_nans_whatever_ieee_says",
        "test_vop3p::test_minimum3_and_maximum3_propagate_nans_on_gfx950",
    ),
    78: _item("v_fmac reads its destination", "test_isa_audit::test_accumulators_are_sources", _SWEEP),
    79: _item(
        "scalar results of VOP3",
        "test_isa_audit::test_clamp_saturates_integers",
        "test_isa_mode::test_division_sequence",
        _SWEEP,
    ),
    80: _item("SDST is no comparison's alone", "test_isa_audit::test_clamp_saturates_integers", _SWEEP),
    81: _item("minimum3 and maximum3 of f32", "test_isa_audit::test_minimum3_propagates_nans_whatever_ieee_says"),
    82: _item("v_cvt_pkaccum reads its destination", "test_isa_audit::test_accumulators_are_sources"),
    83: _item("half destinations of VOP3", "test_isa_audit::test_16_bit_results_keep_or_clear_the_other_half"),
    84: _item("truth tables", "test_isa_audit::test_every_truth_table_of_bitop3"),
    85: _item("v_lshl_add_u64 beyond 4", "test_isa_audit::test_shift_counts_above_four_count_as_zero"),
    86: _item(
        "minimum and maximum of f64",
        "test_isa_mode::test_ieee_mode_quiets_signalling_nans_of_minimum_and_maximum",
        _SWEEP,
    ),
    87: _item(
        "v_readlane, v_writelane",
        "test_isa_audit::test_lane_moves_ignore_exec_and_the_high_bits_of_the_lane",
    ),
    88: _item("DPP of f64 instructions", outside=_LEGALITY),
    89: _item(
        "dispatch, groups, memory order",
        "test_code_objects::test_work_item_ids_and_partial_waves",
        "test_code_objects::test_workgroup_ids",
        "test_memory_global::test_workgroups_share_atomics",
        outside="relaxed order: memory is coherent here, which the hardware also allows",
    ),
    90: _item(
        "destination of SDWA comparisons",
        "test_isa_audit::test_sdwa_comparisons_write_vcc_or_an_sgpr_pair",
        _SWEEP,
    ),
    91: _item("v_bcnt adds", "test_isa_audit::test_bit_counts_start_from_the_second_operand"),
    92: _item("v_trig_preop", "test_isa_audit::test_segments_of_two_over_pi", _SWEEP),
}  # fmt: skip
