"""Coefficients of the polynomials by which the kernels compare two distributions.

In d = log q - log p for |d| <= 1, lowest power first, fitted for the least relative error (1.1e-7,
2.1e-8 and 6.9e-8 with these digits in float32):

    expm1(d) = d + d^2 KL_SERIES(d)            p d^2 KL_SERIES(d) is the element of KL(p||q)
    p d^2 JS_SERIES(d) = p e^u (u sinh u - cosh u log cosh u), u = d/2    the element of JS

and beyond, with r = min(p, q) / max(p, q) <= 1/e:

    JS_FAR(r) = (1 + r) (ln 2 - log(1 + r))
"""

KL_SERIES = (0.5000000099, 0.1666669619, 0.04166651547, 0.008330930508, 0.001389133702,
             0.0002032548052, 2.49607516e-05)  # fmt: skip
JS_SERIES = (0.1249999998, 0.06249999163, 0.01562500387, 0.002604254888, 0.000434024455,
             8.655741757e-05, 1.083258473e-05)  # fmt: skip
JS_FAR = (0.6931472007, -0.3068567753, -0.4998724955, 0.1651355568, -0.0747314214, 0.0258526179)
