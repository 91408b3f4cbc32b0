//! Rules and admission policies in CEL, the Common Expression Language.
//!
//! Owns: parsing and evaluating expressions, `x-kubernetes-validations` of schemas, and `ValidatingAdmissionPolicy`.
//! The function libraries of Kubernetes (addresses, quantities, formats, ...) are those of the crate kube-cel.
//!
//! Invariants, held by construction: parsing recurses to a fixed depth; evaluation is metered (a step costs 1, ten
//! bytes of text 1) and ends when 1,000,000 units are spent on one expression or 10,000,000 on one object, the limits of
//! an API server; patterns match in linear time and are compiled once when they are literals.
//!
//! Deliberately absent: static types beyond the names of fields, and `authorizer`.

mod ast;
mod eval;
mod lex;
mod library;
mod parse;
mod policy;
mod rule;
mod typing;
mod value;

pub use policy::{Attributes, Binding, Decision, Denial, Operation, Policy, selector_matches};
pub(crate) use rule::{Programs, Rule, validate};

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::ast::Expr;
    use super::eval::{EVALUATION_LIMIT, Fault, Meter, Roots, evaluate};
    use super::parse::{Environment, parse};
    use super::value::{Val, lift};

    struct Object<'v>(&'v Value);

    impl<'v> Roots<'v> for Object<'v> {
        fn root(&self, name: &str) -> Option<Val<'v>> {
            (name == "self").then(|| lift(self.0, None))
        }

        fn variable(&self, _: &str, _: &Meter) -> Result<Val<'v>, Fault> {
            Err(Fault::overload())
        }
    }

    fn parsed(source: &str) -> Result<Expr, String> {
        parse(source, Environment { roots: &["self"], variables: None })
    }

    fn outcome(source: &str, this: &Value) -> Result<bool, String> {
        let expr = parsed(source)?;
        match evaluate(&expr, &Object(this), &Meter::new(EVALUATION_LIMIT)) {
            Ok(Val::Bool(flag)) => Ok(flag),
            Ok(other) => Err(format!("not a bool: {}", other.type_name())),
            Err(fault) => Err(fault.to_string()),
        }
    }

    #[track_caller]
    fn holds(sources: &[&str]) {
        let this = json!({
            "name": "caf\u{e9}", "n": 3, "f": 1.5, "list": [1, 2, 3], "empty": [], "map": {"a": 1, "b": 2},
            "items": [{"name": "x", "v": 1}, {"name": "y"}], "namespace": "ns", "a-b": true,
        });
        for source in sources {
            assert_eq!(outcome(source, &this), Ok(true), "{source}");
        }
    }

    #[track_caller]
    fn fails(cases: &[(&str, &str)]) {
        for (source, wanted) in cases {
            let error = outcome(source, &json!({"n": 1, "list": [1], "s": "x"})).unwrap_err();
            assert!(error.contains(wanted), "{source}: {error}");
        }
    }

    #[test]
    fn operators_compute_and_compare() {
        holds(&[
            "1 + 2 * 3 == 7",
            "(1 + 2) * 3 == 9",
            "7 / 2 == 3 && -7 / 2 == -3 && 7 % 4 == 3",
            "1 < 2 && 2 <= 2 && 3u > 2u && 1.5 >= 1.5",
            "1 == 1.0 && 1u == 1 && 2 > 1.5",
            "'a' + 'b' == 'ab' && [1] + [2] == [1, 2]",
            "!false && !!true && - -1 == 1",
            "-9223372036854775808 < 0",
            "true ? true : 1 / 0 == 1",
            "1 in [1, 2] && !(4 in self.list) && 'a' in self.map",
            "{'a': 1}.a == 1 && {'a': 1}['a'] == 1 && {1: 'x'}[1] == 'x'",
            "b'ab' + b'c' == b'abc'",
            "1 != 2 && 'a' != 1 && null == null",
            "0x10 == 16 && 1e3 == 1000.0 && .5 == 0.5",
            "duration('1h') > duration('59m') && duration('1m') + duration('1s') == duration('61s')",
            "'a' < 'b' && 'abc' <= 'abd'",
        ]);
    }

    #[test]
    fn strings_have_escapes_and_raw_forms() {
        holds(&[
            r#""\x41\u0042\t" == "AB\t""#,
            r"r'\d' == '\\d'",
            r#"r"""a"b""" == 'a"b'"#,
            "'''a\nb''' == 'a\\nb'",
            r#"'\'' == "'""#,
            r"'\101' == 'A'",
            "// a comment\n true",
        ]);
    }

    #[test]
    fn fields_are_selected_tested_and_unescaped() {
        holds(&[
            "self.n == 3 && self['n'] == 3",
            "has(self.n) && !has(self.none) && !has(self.map.none)",
            "self.__namespace__ == 'ns' && has(self.a__dash__b) && self.`a-b`",
            "self.items[1].name == 'y' && !has(self.items[1].v)",
            "size(self.name) == 4 && self.name.size() == 4 && size(self.list) == 3 && size(self.map) == 2",
        ]);
    }

    #[test]
    fn macros_loop_and_bind() {
        holds(&[
            "self.list.all(x, x > 0) && !self.list.all(x, x > 1)",
            "self.list.exists(x, x == 2) && !self.empty.exists(x, true) && self.empty.all(x, false)",
            "self.list.exists_one(x, x == 2) && !self.list.exists_one(x, x > 1)",
            "self.list.map(x, x * 2) == [2, 4, 6] && self.list.map(x, x > 1, x * 2) == [4, 6]",
            "self.list.filter(x, x != 2) == [1, 3]",
            "self.map.all(k, k in ['a', 'b']) && self.map.exists(k, self.map[k] == 2)",
            "self.map.all(k, v, self.map[k] == v) && self.list.all(i, x, x == i + 1)",
            "self.list.transformList(i, x, x + i) == [1, 3, 5]",
            "self.map.transformMap(k, v, v * 10) == {'a': 10, 'b': 20}",
            "cel.bind(x, 3, x + x) == 6",
            "self.list.all(x, self.list.exists(y, y == x))",
            "[3, 1, 2].sortBy(x, x) == [1, 2, 3]",
            // An error counts only where no other item decides.
            "[0, 1].exists(x, 1 / x == 1) && ![0, 1].all(x, 1 / x == 0)",
            "false && 1 / 0 == 1 || true",
            "(1 / 0 == 1 || true) && !(1 / 0 == 1 && false)",
        ]);
    }

    #[test]
    fn optional_values_chain() {
        holds(&[
            "self.?none.orValue('d') == 'd' && self.?n.orValue(0) == 3",
            "self[?'none'].hasValue() == false && self.list[?9].orValue(7) == 7",
            "optional.of(1).value() == 1 && optional.none().or(optional.of(2)).value() == 2",
            "self.?map.a.orValue(0) == 1 && self.?none.a.b.orValue(5) == 5",
            "optional.of(2).optMap(x, x * 2).value() == 4",
            "optional.ofNonZeroValue('').hasValue() == false",
            "[?optional.none(), 1] == [1] && {?'a': optional.of(1)} == {'a': 1}",
        ]);
    }

    #[test]
    fn library_functions_answer() {
        holds(&[
            "'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c')",
            "'abc'.matches('^[a-z]+$') && matches('v1.2', '^v[0-9]')",
            "'a,b'.split(',') == ['a', 'b'] && 'abcd'.substring(2) == 'cd' && 'AbC'.lowerAscii() == 'abc'",
            "['a', 'b'].join('-') == 'a-b' && 'x'.replace('x', 'y') == 'y' && ' a '.trim() == 'a'",
            "isIP('10.0.0.1') && !isIP('x') && ip('10.0.0.1').family() == 4",
            "cidr('10.0.0.0/8').containsIP('10.1.2.3') && isCIDR('::/0')",
            "isURL('https://a.b/c') && url('https://a.b:8/c').getHost() == 'a.b:8'",
            "quantity('1Gi').isGreaterThan(quantity('1Mi')) && isQuantity('1m')",
            "format.dns1123Label().validate('ab').hasValue() == false && format.dns1123Label().validate('A').hasValue()",
            "format.dns1123Label().validate('ab') == null && format.dns1123Label().validate('A') != null",
            "sets.contains([1, 2], [1]) && math.greatest(1, 2) == 2 && lists.range(3) == [0, 1, 2]",
            "[1, 2].sum() == 3 && [2, 1].isSorted() == false && [1, 2].indexOf(2) == 1",
            "int('3') == 3 && string(3) == '3' && double('1.5') == 1.5 && bool('true') && string(duration('90s')) == '90s'",
            "type(1) == int && type('a') == string && type([]) == list",
            "timestamp('2026-01-01T00:00:00Z') < timestamp('2026-01-01T00:00:01Z')",
            "timestamp('2026-01-01T00:00:00Z') + duration('1h') == timestamp('2026-01-01T01:00:00Z')",
            "timestamp('2026-01-01T01:00:00Z') - timestamp('2026-01-01T00:00:00Z') == duration('1h')",
            "timestamp('2026-01-02T00:00:00Z').getFullYear() == 2026",
            "semver('1.2.3').isLessThan(semver('1.3.0')) && 'a-%s'.format([1]) == 'a-1'",
        ]);
    }

    #[test]
    fn errors_of_evaluation_say_what_is_wrong() {
        fails(&[
            ("self.none == 1", "no such key: none"),
            ("self.n.x == 1", "no such overload"),
            ("self.list[5] == 1", "index out of bounds: 5"),
            ("1 / 0 == 1", "division by zero"),
            ("1 % 0 == 1", "modulus by zero"),
            ("9223372036854775807 + 1 == 0", "integer overflow"),
            ("'a' < 1", "no such overload"),
            ("'a' + 1 == 'a'", "no such overload"),
            ("self.s && true", "no such overload"),
            ("duration('x') > duration('1s')", "invalid duration"),
            ("ip('x').family() == 4", ""),
            ("self.s.matches(self.s + '(')", "error"),
        ]);
    }

    #[test]
    fn errors_of_parsing_say_where() {
        fails(&[
            ("self.a ==", "ERROR: <input>:1:10: Syntax error"),
            ("slef.a == 1", "<input>:1:1: undeclared reference to 'slef'"),
            ("self.a.frobnicate()", "undeclared reference to 'frobnicate'"),
            ("self.matches('(')", "invalid matches argument"),
            ("has(self)", "invalid argument to has() macro"),
            ("self.all(x, y)", "undeclared reference to 'y'"),
            ("'a", "not closed"),
            ("1 +\n  $", "<input>:2:3"),
            ("self.a b", "unexpected b"),
            ("Foo{a: 1}", "undeclared reference to 'Foo'"),
            ("'\\q' == ''", "invalid escape"),
            ("99999999999999999999 > 1", "invalid int literal"),
            ("", "mismatched input the end"),
        ]);
    }

    #[test]
    fn nesting_is_bounded_and_long_chains_are_refused_not_overflowed() {
        for (open, core, close) in [
            ("(", "1", ")"),
            ("[", "1", "]"),
            ("size(", "1", ")"),
            ("{1:", "1", "}"),
            ("self[", "1", "]"),
            ("true?1:", "1", ""),
        ] {
            let source = format!("{}{core}{}", open.repeat(5_000), close.repeat(5_000));
            assert!(parsed(&source).unwrap_err().contains("nested deeper"), "{open}");
        }
        for (piece, end) in [("1+", "1"), ("self.a.", "b"), ("1<", "1"), ("self.size().", "size()")] {
            let source = format!("{}{end}", piece.repeat(5_000));
            assert!(parsed(&source).is_err(), "{piece}");
        }
        assert!(parsed(&"!".repeat(5_001)).is_err());
        assert!(parsed(&".".repeat(5_000)).is_err());
        assert!(outcome(&format!("{}true", "!".repeat(5_000)), &json!({})).unwrap());
        assert!(outcome(&format!("{}true", "true && ".repeat(5_000)), &json!({})).unwrap());
        assert!(parsed(&"a".repeat(100_001)).unwrap_err().contains("exceeds 100000 code points"));
    }

    #[test]
    fn an_evaluation_ends_when_its_budget_is_spent() {
        let many = json!((0..2_000).collect::<Vec<u32>>());
        let spent = "operation cancelled: actual cost limit exceeded";
        for source in [
            "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))",
            // Neither side of an operator, nor another item, hides it.
            "self.all(a, self.all(b, self.all(c, true))) || true",
            "self.exists(x, self.all(a, self.all(b, self.all(c, true)))) || true",
            "lists.range(1000000000).size() == 0",
            "cel.bind(a, 'xxxxxxxxxxxxxxxx', cel.bind(b, a+a+a+a+a+a+a+a, cel.bind(c, b+b+b+b+b+b+b+b, cel.bind(d, c+c+c+c+c+c+c+c, \
             cel.bind(e, d+d+d+d+d+d+d+d, cel.bind(f, e+e+e+e+e+e+e+e, cel.bind(g, f+f+f+f+f+f+f+f, size(g) > 0)))))))",
        ] {
            assert_eq!(outcome(source, &many), Err(spent.to_owned()), "{source}");
        }
    }

    #[test]
    fn a_panic_in_a_library_function_would_be_an_error_of_the_expression() {
        // Arguments at the edges of what the functions take; none may panic, whatever it answers.
        for source in [
            "'h\u{e9}llo'.substring(1, 2) == 'x'",
            "'h\u{e9}llo'.substring(-1) == 'x'",
            "'h\u{e9}llo'.charAt(99) == 'x'",
            "'x'.split('', -5) == []",
            "quantity('1e999999').isInteger()",
            "quantity('99999999999999999999Ei').add(1) == quantity('1')",
            "[].max() == 1",
            "math.bitShiftLeft(1, 999) == 1",
            "math.abs(-9223372036854775808) == 1",
            "timestamp('9999-12-31T23:59:59Z') + duration('9000h') == timestamp('2026-01-01T00:00:00Z')",
            "'%.999999999f'.format([1.0]) == ''",
            "[1].slice(5, 2) == []",
            "[[1]].flatten(-1) == []",
            "sets.contains(1, 2)",
            "ip() == 1",
            "'a'.format() == ''",
            "timestamp('2024-03-31T00:00:00Z').getDayOfYear() == 90",
        ] {
            let _ = outcome(source, &json!({}));
        }
    }
}
