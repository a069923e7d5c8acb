"""Pairs of answers: (answer, reference, whether they are the same)."""

YES, NO = True, False

CASES = [
    # Whole numbers, signs, decimals.
    ('42', '42', YES), ('042', '42', YES), ('42.', '42', YES), ('42.0', '42', YES),
    ('+42', '42', YES), ('-42', '42', NO), ('\u221242', '-42', YES), ('42', '-42', NO),
    ('0.5', '.5', YES), ('0.50', '0.5', YES), ('3.14', '\\pi', NO), ('3.14159265', '\\pi', NO),
    ('\\pi', '\\pi', YES), ('π', '\\pi', YES), ('2\\pi', '6.283185307', NO), ('1e3', '1000', YES),
    ('1e3', '13', NO), ('2.5e-1', '0.25', YES), ('1e999', '10', NO), ('12', '21', NO),
    ('0', '-0', YES), ('007', '7', YES), ('$42$', '42', YES), ('  42 ', '42', YES),
    # Thousands.
    ('1,000', '1000', YES), ('1{,}000', '1000', YES), ('1\\,000', '1000', YES),
    ('1,000,000', '1000000', YES), ('1,00', '100', NO), ('10,00', '1000', NO),
    ('12,345.5', '12345.5', YES), ('1 000', '1000', YES), ('1,234', '1.234', NO),
    # Fractions.
    ('\\frac{1}{2}', '0.5', YES), ('\\dfrac{1}{2}', '\\frac12', YES), ('1/2', '\\frac{1}{2}', YES),
    ('\\tfrac{2}{4}', '\\frac{1}{2}', YES), ('\\frac{-1}{2}', '-\\frac{1}{2}', YES),
    ('-\\frac{1}{-2}', '\\frac12', YES), ('0.333333', '\\frac{1}{3}', NO),
    ('0.3333333333', '1/3', NO), ('\\frac{1}{3}', '0.333333', NO), ('\\frac{2}{1}', '2', YES),
    ('1\\frac{1}{2}', '\\frac{3}{2}', YES), ('1\\frac{1}{2}', '\\frac{1}{2}', NO),
    ('\\frac{1}{0}', '0', NO), ('2/3', '3/2', NO), ('\\frac{x+1}{2}', '\\frac{1+x}{2}', YES),
    ('\\frac{x}{2}', 'x/2', YES), ('\\frac{14}{3}', '4\\frac{2}{3}', YES),
    ('\\frac34', '0.75', YES),
    # Roots, powers, expressions.
    ('\\sqrt{8}', '2\\sqrt{2}', YES), ('\\sqrt{2}', '1.41421356', NO), ('2^{10}', '1024', YES),
    ('\\frac{1}{\\sqrt{2}}', '\\frac{\\sqrt{2}}{2}', YES), ('\\sqrt[3]{27}', '3', YES),
    ('(x+1)^2', 'x^2+2x+1', YES), ('(x+1)^2', 'x^2+1', NO), ('2(x+3)', '2x+6', YES),
    ('x(x-1)', 'x^2-x', YES), ('x^2', '2^x', NO), ('a+b', 'b+a', YES), ('a-b', 'b-a', NO),
    ('3\\cdot 4', '12', YES), ('3\\times 4', '12', YES), ('5!', '120', YES),
    ('\\log 2', '\\log(2)', YES), ('\\sin x', '\\cos x', NO), ('e^{2}', '7.389', NO),
    ('2^{3^2}', '512', YES), ('2^{3^2}', '64', NO), ('\\binom{5}{2}', '10', YES),
    ('3+4i', '4i+3', YES), ('3+4i', '3-4i', NO), ('i', '-i', NO), ('|{-3}|', '3', YES),
    # Chains of equalities and names.
    ('8=7', '7', NO), ('x=8=7', '7', NO), ('7=7', '7', NO), ('x=7', '7', YES), ('7', 'x=7', YES),
    ('x=7', 'y=7', NO), ('x = 7', 'x=7', YES), ('x=7=7', '7', NO), ('3+4=7', '7', NO),
    ('f(x)=2x', '2x', YES), ('y=2x+1', 'y=1+2x', YES), ('y=2x+1', 'y=2x', NO), ('x=5,6', '6', NO),
    ('a=1,b=2', '2', NO), ('x\\ge 3', '3', NO), ('x=3', 'x\\ge 3', NO), ('0=0', '0', NO),
    ('x\\in(1,2)', '(1,2)', NO), ('\\theta=\\frac{\\pi}{2}', '\\frac{\\pi}{2}', YES),
    # Tuples, intervals, sets, lists.
    ('(1,2)', '(1,2)', YES), ('(1, 2)', '(1,2)', YES), ('(1,2)', '(2,1)', NO),
    ('(1,2)', '\\{1,2\\}', NO), ('\\{1,2\\}', '(1,2)', NO), ('\\{1,2\\}', '\\{2,1\\}', YES),
    ('\\{1,2\\}', '\\{1,2,3\\}', NO), ('1,2', '2,1', YES), ('1,2', '(1,2)', NO), ('1,2', '1', NO),
    ('1', '1,2', NO), ('1,2,3', '1,2', NO), ('[1,2]', '(1,2)', NO), ('[1,2)', '[1,2]', NO),
    ('[1,2)', '[1,2)', YES), ('(0.5,1)', '(\\frac12,1)', YES),
    ('(-\\infty,3)', '(-\\infty,3)', YES),
    ('(-\\infty,3]', '(-\\infty,3)', NO), ('(-∞,3)', '(-\\infty,3)', YES),
    ('\\left(1,2\\right)', '(1,2)', YES), ('(1,2,3)', '(1,2)', NO), ('(1)', '1', YES),
    ('\\{5\\}', '5', NO), ('2\\cdot3', '6', YES), ('\\left[\\frac{1}{2},1\\right]', '[0.5,1]', YES),
    ('(3,\\frac{\\pi}{2})', '(3,\\pi/2)', YES), ('(3,\\pi)', '(3,-\\pi)', NO),
    # Percentages, units, money, degrees.
    ('50\\%', '50', YES), ('50%', '50\\%', YES), ('50\\%', '5', NO), ('10\\text{ cm}', '10', YES),
    ('10 cm', '10', YES), ('10', '10\\text{ cm}', YES), ('10\\text{ cm}^2', '10', YES),
    ('\\$10', '10', YES), ('90^\\circ', '90', YES), ('90^{\\circ}', '90', YES), ('90°', '90', YES),
    ('30\\text{ minutes}', '30', YES), ('3\\text{ hours}', '30', NO), ('5\\mathrm{ km}', '5', YES),
    ('1,000\\text{ dollars}', '1000', YES), ('45 degrees', '45', YES),
    # Words and choices.
    ('B', 'B', YES), ('(B)', 'B', YES), ('\\text{B}', 'B', YES), ('\\text{(B)}', 'B', YES),
    ('C', 'B', NO), ('A, B', 'B', NO), ('ABCDE', 'B', NO), ('b', 'B', NO),
    ('\\text{even}', 'even', YES), ('Even', '\\text{even}', YES), ('odd', 'even', NO),
    ('\\text{Yes}', 'yes', YES), ('yes and no', 'yes', NO), ('\\text{Monday}', 'Monday', YES),
    # Bases.
    ('12_8', '12', NO), ('12_8', '12_8', YES), ('12_{8}', '12_9', NO), ('10', '12_8', NO),
    # Matrices.
    ('\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', '\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}',
     YES),
    ('\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}', '\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}',
     NO),
    ('\\begin{pmatrix}\\frac12\\\\1\\end{pmatrix}', '\\begin{pmatrix}0.5\\\\1\\end{pmatrix}', YES),
    # What is no answer, or too much of one.
    ('', '5', NO), (' ', '5', NO), ('\\', '5', NO), ('{}', '5', NO), ('5 or 6', '5', NO),
    ('5,5', '5', NO), ('5;6', '5', NO), ('5\\text{ or }6', '6', NO), ('\\boxed{5}6', '5', NO),
    ('5' * 400, '5', NO), ('\x005', '5', NO), ('\\text{the answer is }5', '5', NO),
    ('5 \\pm 1', '6', NO), ('\\pm 3', '3', NO), ('3', '\\pm 3', NO), ('\\pm 3', '\\pm 3', YES),
    ('\\infty', '-\\infty', NO), ('\\infty', '\\infty', YES), ('x', '5', NO), ('5', 'x', NO),
]
